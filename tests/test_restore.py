"""Restoration of clips: sizes, seeds and stages."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seedvr2_lab.config import transformer_config, vae_config
from seedvr2_lab.media.clips import load_picture
from seedvr2_lab.media.degrade import resize
from seedvr2_lab.model.dit import DiT
from seedvr2_lab.model.vae import VideoVAE
from seedvr2_lab.model.weights import Generator, fixed_text
from seedvr2_lab.restore import Restorer


@pytest.fixture(scope="module")
def noisy():
    """A restorer with random weights that starts from noise."""
    torch.manual_seed(0)
    dit = DiT(transformer_config("study")).eval()
    return Restorer(Generator(dit, fixed_text(96), noise_scale=1.0), VideoVAE(vae_config("small")).eval())


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 11), st.integers(1, 40), st.integers(1, 40), st.integers(1, 90), st.integers(1, 90))
def test_any_clip_comes_back_with_all_its_frames_in_the_exact_size(noisy, frames, height, width, H, W):
    restored = noisy(torch.rand(3, frames, height, width), (H, W))
    assert restored.shape == (3, frames, H, W)
    assert restored.isfinite().all() and restored.min() >= 0 and restored.max() <= 1


def test_the_seed_decides_and_nothing_else_that_is_random(noisy):
    clip = torch.rand(3, 5, 8, 8)
    first, other = noisy(clip, (32, 32), seed=1), noisy(clip, (32, 32), seed=2)
    torch.manual_seed(99)
    assert torch.equal(first, noisy(clip, (32, 32), seed=1)) and not torch.equal(first, other)


def test_stages_are_shown_in_order_with_the_shapes_of_the_pipeline(noisy):
    stages = {}
    noisy(torch.rand(3, 6, 10, 10), (40, 44), keep=lambda name, value: stages.update({name: tuple(value.shape)}))
    assert stages == {
        "resized": (6, 3, 40, 44),
        "condition": (1, 16, 4, 10, 12),  # 6 frames padded to 7, 44 pixels to 48
        "latent": (1, 16, 4, 10, 12),
        "decoded": (6, 3, 40, 44),
    }


def test_the_colour_fix_keeps_the_mean_colour():
    low = resize(load_picture("chelsea")[None, :, :96, :128], (24, 32)).transpose(0, 1)
    restored = Restorer.load("tiny")(low, (96, 128))
    assert (restored.mean((1, 2, 3)) - low.mean((1, 2, 3))).abs().max() < 1 / 255
