"""Degradation of clips and files, resize and colour fix against definitions, a second method and goldens."""

import hashlib
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from footage import VFR, make, read
from PIL import Image

from seedvr2_lab.cli import main
from seedvr2_lab.console import InputError
from seedvr2_lab.media import color
from seedvr2_lab.media.clips import load_picture
from seedvr2_lab.media.degrade import PRESETS, Degradation, degrade, resize
from seedvr2_lab.metrics import psnr

CLIP = load_picture("coffee")[:, None, :96, :130].repeat(1, 3, 1, 1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_size_levels_and_seed():
    first, again, other = (degrade(CLIP, generator(seed)) for seed in (0, 0, 1))
    assert first.shape == (3, 3, 24, 32)
    assert torch.equal(first * 255, (first * 255).round())
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_the_bytes_on_which_the_bundled_models_were_trained():
    pixels = (degrade(CLIP, generator()) * 255).round().byte().numpy()
    digest = hashlib.sha256(pixels.tobytes()).hexdigest()
    assert digest == "7663bfb17377659f10c2404573491cf7a2b542b1be055d4b4e08a3a1f76f1b1e"


def test_a_clip_too_small_for_the_scale_is_refused():
    with pytest.raises(InputError, match="3x96 pixels are too few"):
        degrade(CLIP[:, :, :, :3], generator())


@pytest.mark.parametrize("field", ["blur", "noise", "jpeg"])
def test_more_of_each_stage_is_worse(field):
    mild = dict(blur=(0.2, 0.2), noise=(0.0, 0.0), jpeg=(95, 95))
    strong = dict(blur=(4.0, 4.0), noise=(0.1, 0.1), jpeg=(20, 20))
    reference = resize(CLIP.transpose(0, 1), (24, 32)).transpose(0, 1)[:, :, :, :32]
    scores = [
        psnr(degrade(CLIP, generator(), Degradation(**settings)), reference)
        for settings in (mild, mild | {field: strong[field]})
    ]
    assert scores[1] < scores[0] - 2


def test_resize_is_pillow_bicubic_with_antialiasing():
    pixels = np.random.default_rng(0).random((40, 56), dtype=np.float32)
    for size in [(10, 14), (93, 70)]:
        theirs = np.array(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BICUBIC)).clip(0, 1)
        ours = resize(torch.from_numpy(pixels)[None, None], size)[0, 0].numpy()
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


def test_the_colour_fix_is_the_published_one(golden):
    tensors = golden("colorfix.safetensors").tensors
    cases = sorted({name.split(".")[0] for name in tensors})
    assert cases
    for case in cases:
        ours = color.wavelet(tensors[f"{case}.content"], tensors[f"{case}.style"])
        torch.testing.assert_close(ours, tensors[f"{case}.out"], atol=1e-5, rtol=0)


def test_the_colour_fix_takes_the_mean_from_the_style():
    content, style = torch.rand(2, 3, 64, 80, generator=generator()), torch.full((2, 3, 64, 80), 0.3)
    assert color.wavelet(content, style).mean() == pytest.approx(0.3, abs=0.01)


# --- Files ---


@pytest.fixture(scope="module")
def sounding(tmp_path_factory):
    """Forty frames of 96x128 at uneven times, with sound."""
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    return make(path, tick=Fraction(1, 90000), stamps=VFR, audio=True)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_file_holds_what_degrading_the_whole_clip_gives(sounding, tmp_path, preset, capsys):
    target = tmp_path / "low.mkv"
    assert main(["degrade", str(sounding), str(target), "--preset", preset, "--scale", "3", "--seed", "5"]) == 0
    assert "40 frames of 42x32" in capsys.readouterr().out
    _, frames, times = read(sounding)
    clip = torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2).float() / 255
    expected = degrade(clip, generator(5), replace(PRESETS[preset], scale=3)).permute(1, 2, 3, 0) * 255
    reader, low, low_times = read(target)
    np.testing.assert_array_equal(np.stack(low), expected.round().byte().numpy())
    assert [float(time) for time in low_times] == pytest.approx(
        [float(time) for time in times], abs=1e-3
    )  # of Matroska
    assert reader.info.has_audio


def test_a_picture_is_degraded_to_a_picture(tmp_path):
    source, target = tmp_path / "in.png", tmp_path / "out.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (41, 67, 3), dtype=np.uint8)).save(source)
    assert main(["degrade", str(source), str(target)]) == 0
    assert Image.open(target).size == (16, 10)
    first = target.read_bytes()
    assert main(["degrade", str(source), str(target), "--seed", "1"]) == 2 and target.read_bytes() == first
    assert main(["degrade", str(source), str(target), "--seed", "1", "--overwrite"]) == 0
    assert target.read_bytes() != first


@pytest.mark.parametrize(
    ("source", "target", "options", "word"),
    [
        ("missing.mp4", "out.mp4", [], "missing.mp4"),
        ("text.mp4", "out.mp4", [], "text.mp4"),
        ("cut.mp4", "out.mp4", [], "cut.mp4"),
        ("spoiled.mp4", "out.mp4", [], "spoiled.mp4"),
        ("clip.mp4", "no/such/out.mp4", [], "no/such"),
        ("clip.mp4", "out.xyz", [], "out.xyz"),
        ("clip.mp4", "out.png", [], "picture"),
        ("clip.mp4", "clip.mp4", [], "exists"),
        ("clip.mp4", "clip.mp4", ["--overwrite"], "clip.mp4"),
        ("clip.mp4", "out.webm", [], "lossless"),
        ("clip.mp4", "out.mp4", ["--codec", "mjpeg"], "h264"),
        ("clip.mp4", "out.mp4", ["--preset", "awful"], "heavy"),
        ("clip.mp4", "out.mp4", ["--scale", "0"], "scale"),
        ("clip.mp4", "out.mp4", ["--scale", "17"], "scale"),
        ("tiny.png", "out.png", ["--scale", "4"], "tiny.png: 3x9"),
    ],
)
def test_bad_input_is_one_line_status_2_and_leaves_nothing(sounding, tmp_path, capsys, source, target, options, word):
    data = sounding.read_bytes()
    (tmp_path / "clip.mp4").write_bytes(data)
    (tmp_path / "cut.mp4").write_bytes(data[:300])
    (tmp_path / "spoiled.mp4").write_bytes(spoiled(data))
    (tmp_path / "text.mp4").write_text("this is no video\n")
    Image.new("RGB", (3, 9)).save(tmp_path / "tiny.png")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert main(["degrade", str(tmp_path / source), str(tmp_path / target), *options]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and word in lines[0]
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def spoiled(data: bytes) -> bytes:
    """Noise over the middle of the pictures: found only after many frames have been written."""
    start = data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 3
    noise = np.random.default_rng(0).integers(0, 256, 2000, dtype=np.uint8).tobytes()
    return data[:start] + noise + data[start + len(noise) :]
