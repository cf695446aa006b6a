"""Degradation, resize and colour fix against definitions, a second method and goldens."""

import numpy as np
import pytest
import torch
from PIL import Image

from seedvr2_lab.media import color
from seedvr2_lab.media.clips import load_picture
from seedvr2_lab.media.degrade import Degradation, degrade, resize
from seedvr2_lab.metrics import psnr

CLIP = load_picture("coffee")[:, None, :96, :130].repeat(1, 3, 1, 1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_size_levels_and_seed():
    first, again, other = (degrade(CLIP, generator(seed)) for seed in (0, 0, 1))
    assert first.shape == (3, 3, 24, 32)
    assert torch.equal(first * 255, (first * 255).round())
    assert torch.equal(first, again) and not torch.equal(first, other)


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
