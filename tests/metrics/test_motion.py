"""Clips whose motion, flicker and steadiness are known."""

import math

import pytest
import torch

from seedvr2_lab.console import InputError
from seedvr2_lab.media.clips import camera_clip, camera_path, load_picture
from seedvr2_lab.metrics import flicker, optical_flow, warping_error

SIZE = (128, 160)


def flight(name: str, seed: int, frames: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """A clip and its true flow."""
    picture = load_picture(name)
    path = camera_path(picture.shape[1:], frames, SIZE, torch.Generator().manual_seed(seed))
    return camera_clip(picture, frames, SIZE, torch.Generator().manual_seed(seed)), path.flow(SIZE)


def pan(picture: torch.Tensor, frames: int, step: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """A window that moves right and down by whole pixels, and its flow."""
    clip = torch.stack([picture[:, t * step : t * step + 96, t * step : t * step + 96] for t in range(frames)], 1)
    return clip, torch.full((frames - 1, 2, 96, 96), -float(step))


def test_a_perfectly_warped_clip_has_no_warping_error(photo):
    clip, flow = pan(photo, 4)
    assert warping_error(clip, flow) == pytest.approx(0, abs=1e-20)
    assert warping_error(clip, 0 * flow) > 1e-3


def test_warping_error_of_noise_is_twice_its_variance(photo, noisy):
    clip, flow = pan(photo, 6)
    assert warping_error(noisy(clip, 0.1), flow) == pytest.approx(2 * 0.1**2, rel=0.02)


def test_true_flow_of_a_camera_leaves_only_interpolation(noisy):
    clip, flow = flight("coffee", 2)
    steady = warping_error(clip, flow)
    assert steady < 1e-4 < 0.1 * warping_error(clip, torch.zeros_like(flow))
    assert steady < warping_error(noisy(clip, 0.02), flow) < warping_error(noisy(clip, 0.1), flow)


@pytest.mark.parametrize(("name", "seed"), [("astronaut", 1), ("coffee", 2), ("grass", 5)])
def test_optical_flow_finds_the_camera(name, seed):
    clip, truth = flight(name, seed)
    found = optical_flow(clip)
    distance = (found - truth).norm(dim=1)
    assert found.shape == truth.shape and truth.norm(dim=1).nanmean() > 2
    assert distance.nanmedian() < 0.25
    assert found.isnan().double().mean() < 0.2
    assert warping_error(clip, found) < 3e-4


def test_what_becomes_hidden_has_no_flow():
    """A square moves over a texture: the strip that it covers next cannot be followed."""
    clip = torch.stack([load_picture("grass")[:, :192, :192]] * 2, 1)
    square = load_picture("brick")[:, :96, :96]
    for t, left in enumerate((40, 52)):
        clip[:, t, 48:144, left : left + 96] = square
    flow = optical_flow(clip)[0]
    lost = flow[0].isnan().double()
    assert lost[56:136, 138:147].mean() > 0.9 and lost[:40].mean() < 0.01 and lost[56:136, 50:125].mean() < 0.01
    assert flow[1, 56:136, 50:125].nanmedian() == pytest.approx(12, abs=0.01)


def test_an_error_that_stays_does_not_flicker(photo, noisy):
    reference, _ = pan(photo, 5)
    still = noisy(photo[:, None, :96, :96], 0.1) - photo[:, None, :96, :96]
    assert flicker(reference + still, reference) == pytest.approx(0, abs=1e-7)


def test_planted_flicker_is_found_in_its_strength(photo, noisy):
    reference, _ = pan(photo, 6)
    pulse = (-1.0) ** torch.arange(6)[:, None, None]
    found = [flicker(reference + size / 2 * pulse, reference) for size in (0, 0.02, 0.1)]
    assert found == pytest.approx([0, 0.02, 0.1], abs=1e-6)
    expected = 0.1 * 2 / math.sqrt(math.pi)  # the mean absolute difference of two draws of sigma 0.1
    assert flicker(noisy(reference, 0.1), reference) == pytest.approx(expected, rel=0.02)


def test_along_the_flow_an_error_that_moves_with_the_content_does_not_flicker(photo, blurred):
    reference, flow = pan(photo, 5)
    blur, _ = pan(blurred(photo, 2), 5)
    assert flicker(blur, reference) > 0.01
    assert flicker(blur, reference, flow) == pytest.approx(0, abs=1e-7)


def test_a_single_frame_gives_no_number(photo):
    single = photo[:, None]
    assert math.isnan(flicker(single, single))
    assert math.isnan(warping_error(single, optical_flow(single)))


def test_a_flow_of_another_clip_is_refused(photo):
    clip, flow = pan(photo, 4)
    with pytest.raises(InputError, match="for 4 frames of 96x96 give"):
        warping_error(clip, flow[1:])
