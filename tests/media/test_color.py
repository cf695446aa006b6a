"""Colour fixes beside the published one (test_degrade.py): CIELAB against scikit-image, statistics, float32."""

import numpy as np
import pytest
import torch
from skimage.color import rgb2lab
from torch.testing import assert_close

from seedvr2_lab.media.clips import load_picture
from seedvr2_lab.media.color import FIXES, adain, from_lab, lab, none, to_lab


@pytest.fixture(scope="module")
def pair():
    """Two frames, and the same with another contrast and a cast."""
    style = torch.stack([load_picture("coffee")[:, i : i + 64, i : i + 80] for i in (40, 150)])
    cast = torch.tensor([0.85, 1.0, 0.7]).view(3, 1, 1)
    return (style * 0.7 * cast + 0.1), style


def test_lab_is_that_of_scikit_image_and_comes_back():
    rgb = torch.cat([load_picture("astronaut")[None, :, :40, :50], torch.rand(1, 3, 40, 50), torch.zeros(1, 3, 40, 50)])
    ours, theirs = to_lab(rgb), rgb2lab(rgb.permute(0, 2, 3, 1).numpy())
    assert np.abs(ours.permute(0, 2, 3, 1).numpy() - theirs).max() < 2e-4
    assert_close(from_lab(ours), rgb, rtol=0, atol=1e-5)


def test_adain_takes_mean_and_deviation_of_each_frame(pair):
    content, style = pair
    fixed = adain(content, style)
    assert_close(fixed.mean((2, 3)), style.mean((2, 3)), rtol=0, atol=1e-5)
    assert_close(fixed.std((2, 3)), style.std((2, 3)), rtol=0, atol=1e-4)


def test_lab_undoes_a_cast_without_turning_hues(pair):
    content, style = pair
    fixed = to_lab(lab(content, style).clamp(0, 1))
    assert (fixed.mean((2, 3)) - to_lab(style).mean((2, 3))).abs().max() < 1
    before, after = ((to_lab(frames) - to_lab(style)).abs().mean() for frames in (content, lab(content, style)))
    assert after < 0.35 * before


@pytest.mark.parametrize("name", FIXES)
def test_what_has_the_right_colours_stays_and_even_frames_are_safe(pair, name):
    _, style = pair
    assert FIXES[name](style, style).dtype == torch.float32
    assert_close(FIXES[name](style, style), style, rtol=0, atol=1e-4)
    even = torch.full((1, 3, 5, 1), 0.5)
    assert_close(FIXES[name](even, even), even, rtol=0, atol=1e-4)
    assert FIXES[name](even, torch.rand(1, 3, 5, 1)).isfinite().all()


@pytest.mark.parametrize("name", FIXES)
def test_no_frame_depends_on_another(pair, name):
    content, style = pair
    alone = torch.cat([FIXES[name](c, s) for c, s in zip(content.split(1), style.split(1), strict=True)])
    assert_close(FIXES[name](content, style), alone)


def test_none_changes_nothing(pair):
    assert none(*pair) is pair[0]
