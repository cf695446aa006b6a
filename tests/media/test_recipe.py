"""The real-world recipe: its noise and drift against definitions, its chances by counting, its seeds to the byte."""

import hashlib
import re
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Dataset

from seedvr2_lab.media.clips import camera_clip, load_picture, sample_clips
from seedvr2_lab.media.degrade import PRESETS, degrade, resize
from seedvr2_lab.media.recipe import FIRST, LUMA, RECIPES, SECOND, Drift, Recipe, gaussian_noise, poisson_noise
from seedvr2_lab.metrics import psnr

CLIP = camera_clip(load_picture("coffee"), 4, (48, 64), torch.Generator().manual_seed(0))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(recipe: Recipe, count: int, size=(240, 320)) -> list[dict[str, str]]:
    """What `count` seeds draw: stage -> detail, in the order of the stages."""
    return [{s.name: s.detail for s in recipe.stages((1, *size), generator(seed))} for seed in range(count)]


# --- Noise and drift ---


@pytest.mark.parametrize("sigma", [2.0, 30.0])
def test_gaussian_noise_has_the_deviation_asked_for(sigma):
    colour, grey = (gaussian_noise(torch.zeros(3, 200, 300), sigma, is_grey, generator()) for is_grey in (False, True))
    assert colour.shape == (3, 200, 300) and grey.shape == (1, 200, 300)  # the grey one is added to all colours
    for noise in (colour, grey):
        assert float(noise.std()) * 255 == pytest.approx(sigma, rel=0.02)
        assert float(noise.mean()) * 255 == pytest.approx(0, abs=sigma / 50)
    assert abs(float(torch.corrcoef(colour[:2].flatten(1))[0, 1])) < 0.02


@pytest.mark.parametrize("strength", [0.5, 3.0])
def test_the_variance_of_poisson_noise_grows_with_brightness(strength):
    for light in (0.0, 0.1, 0.4, 0.9):
        noise = poisson_noise(torch.full((3, 200, 300), light), strength, False, generator())
        assert float(noise.var()) == pytest.approx(strength**2 * light / 256, rel=0.03)
        assert float(noise.mean()) == pytest.approx(0, abs=0.001 * strength)


def test_grey_poisson_noise_counts_the_luma():
    green = torch.zeros(3, 200, 300)
    green[1] = 1.0
    noise = poisson_noise(green, 1.0, True, generator())
    assert noise.shape == (1, 200, 300)
    assert float(noise.var()) == pytest.approx(LUMA[1] / 256, rel=0.03)


@settings(max_examples=50, deadline=None)
@given(st.floats(0, 1), st.floats(-0.05, 0.05), st.sampled_from([(0.2, 3.0), (95.0, 30.0)]))
def test_drift_is_slow_and_stays_in_its_range(start, pace, ends):
    values = [Drift(*ends, start, pace)(t) for t in range(300)]
    assert min(ends) - 1e-9 <= min(values) and max(values) <= max(ends) + 1e-9
    steps = [abs(after - before) for before, after in pairwise(values)]
    assert max(steps) <= abs(pace * (ends[1] - ends[0])) + 1e-9
    if abs(pace) > 0.01:  # and it gets everywhere
        assert max(values) - min(values) > 0.9 * abs(ends[1] - ends[0])


def test_without_drift_frames_differ_by_their_noise_alone():
    still = CLIP[:, :1].expand(-1, 6, -1, -1)
    quiet = {"gaussian": (0.0, 0.0), "poisson": (0.0, 0.0), "video": 0.0}
    recipe = Recipe(orders=(replace(FIRST, **quiet), replace(SECOND, **quiet)), drift=0.0)
    for seed in range(4):
        constant, moving = (degrade(still, generator(seed), replace(recipe, drift=drift)) for drift in (0.0, 0.05))
        assert torch.equal(constant, constant[:, :1].expand(-1, 6, -1, -1))
        assert torch.equal(moving[:, 0], constant[:, 0]) and not torch.equal(moving[:, 5], moving[:, 0])


# --- What is drawn ---


def test_stages_come_as_often_and_in_the_order_of_the_original():
    count = 600
    runs = drawn(Recipe(), count)
    share = {name: sum(name in run for run in runs) / count for name in ("blur 1", "blur 2", "ringing", "video 2")}
    assert share == pytest.approx({"blur 1": 1, "blur 2": 0.8, "ringing": 0.8, "video 2": 1}, abs=0.05)
    last = [list(run).index("video 2") > list(run).index("final size") for run in runs]
    assert sum(last) / count == pytest.approx(0.5, abs=0.06)
    first_kernels = [run["blur 1"] for run in runs]
    for shape, chance in {"Gaussian": 0.63, "generalised": 0.135, "plateau": 0.135, "sinc": 0.1}.items():
        assert sum(kernel.startswith(shape) for kernel in first_kernels) / count == pytest.approx(chance, abs=0.06)
    assert sum("grey" in run["noise 1"] for run in runs) / count == pytest.approx(0.4, abs=0.06)
    middle = ["resize 1", "noise 1", "jpeg 1", "video 1"]
    assert all([name for name in run if name in middle] == middle for run in runs)


@pytest.mark.parametrize(
    ("preset", "jpeg", "crf"),
    [("light", (73, 95), (18, 25)), ("medium", (52, 73), (25, 31)), ("heavy", (30, 52), (31, 38))],
)
def test_presets_draw_from_their_third_of_the_ranges(preset, jpeg, crf):
    runs = drawn(PRESETS[preset], 150)
    qualities = [int(re.search(r"\d+", run["jpeg 1"])[0]) for run in runs]
    assert jpeg[0] <= min(qualities) < jpeg[0] + 3 and jpeg[1] - 3 < max(qualities) <= jpeg[1]
    factors = [int(run["video 2"].split()[-1]) for run in runs if run["video 2"].startswith("h264")]
    assert crf[0] <= min(factors) and max(factors) <= crf[1]


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
def test_the_first_resize_ends_a_little_below_the_final_size_at_any_scale(scale):
    heights = [int(re.search(r"(\d+)×", run["resize 1"])[1]) for run in drawn(Recipe(scale=scale), 300, (240, 240))]
    assert min(heights) / (240 / scale) == pytest.approx(0.6, abs=0.12)
    assert max(heights) / 240 == pytest.approx(1.5, abs=0.1)


def test_heavier_presets_leave_less_of_validation_pictures():
    """PSNR of the bicubic enlargement; the paper's recipe spans the three."""
    clips = sample_clips("validation", 8, 2, (96, 96), generator())
    scores = {}
    for name in RECIPES:
        enlarged = [resize(degrade(c, generator(7), RECIPES[name]).transpose(0, 1), (96, 96)) for c in clips]
        values = [psnr(low.transpose(0, 1), clip) for low, clip in zip(enlarged, clips, strict=True)]
        scores[name] = sum(values) / len(values)
    assert scores["light"] > scores["medium"] + 1 > scores["heavy"] + 2
    assert scores["light"] > scores["paper"] > scores["heavy"]


# --- Seeds, sizes and frames ---


@pytest.mark.parametrize("preset", PRESETS)
def test_the_seed_decides_and_nothing_else(preset):
    first = degrade(CLIP, generator(3), PRESETS[preset])
    threads = torch.get_num_threads()
    try:
        torch.manual_seed(99)
        for other in (1, 2):
            torch.set_num_threads(other)
            assert torch.equal(first, degrade(CLIP, generator(3), PRESETS[preset]))
            assert torch.get_num_threads() == other
    finally:
        torch.set_num_threads(threads)
    assert not torch.equal(first, degrade(CLIP, generator(4), PRESETS[preset]))


class Degraded(Dataset):
    def __len__(self):
        return 6

    def __getitem__(self, index):
        return degrade(CLIP, generator(index), RECIPES["paper"])


def test_workers_make_the_same_bytes():
    digests = [
        [hashlib.sha256(low.numpy().tobytes()).hexdigest() for low in DataLoader(Degraded(), num_workers=workers)]
        for workers in (0, 1, 2)
    ]
    assert digests[0] == digests[1] == digests[2] and len(set(digests[0])) == 6


def test_without_encoders_the_first_frames_do_not_depend_on_those_after():
    recipe = Recipe(orders=(replace(FIRST, video=0.0), replace(SECOND, video=0.0)))
    for seed in range(3):
        whole, part = (degrade(clip, generator(seed), recipe) for clip in (CLIP, CLIP[:, :2]))
        assert torch.equal(whole[:, :2], part)


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("preset", ["simple", "paper"])
def test_sizes_are_cut_and_divided(preset, scale):
    low = degrade(CLIP[:, :, :43], generator(scale), replace(PRESETS[preset], scale=scale))
    assert low.shape == (3, 4, 43 // scale, 64 // scale)
    torch.testing.assert_close(low * 255, (low * 255).round(), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("size", "scale"),
    [
        ((1, 1), 1), ((1, 40), 1), ((40, 1), 1), ((2, 3), 2), ((3, 64), 3), ((5, 7), 4), ((31, 33), 2), ((9, 100), 8),
        ((17, 19), 4), ((64, 4), 4),
    ],
)  # fmt: skip
def test_awkward_sizes(size, scale):
    clip = torch.rand(3, 3, *size, generator=generator())
    for seed in range(4):
        low = degrade(clip, generator(seed), replace(RECIPES["paper"], scale=scale))
        assert low.shape == (3, 3, size[0] // scale, size[1] // scale)
        assert low.isfinite().all() and low.min() >= 0 and low.max() <= 1


def test_stages_are_shown_in_order_and_the_last_one_is_the_result():
    seen = []
    low = degrade(CLIP, generator(), RECIPES["paper"], keep=lambda stage, frames: seen.append((stage.name, frames)))
    assert [name for name, _ in seen] == [stage.name for stage in Recipe().stages((4, 48, 64), generator())]
    assert all(frames.shape[:2] == (4, 3) for _, frames in seen)
    torch.testing.assert_close(seen[-1][1].clamp(0, 1).transpose(0, 1), low, atol=0.5 / 255 + 1e-6, rtol=0)
