"""Regression of a one-step generator: what it is given, and that it learns."""

import dataclasses

import pytest
import torch
from torch import nn

from seedvr2_lab.config import transformer_config, vae_config
from seedvr2_lab.media.clips import sample_clips
from seedvr2_lab.metrics import psnr
from seedvr2_lab.model.dit import DiT
from seedvr2_lab.model.vae import VideoVAE
from seedvr2_lab.model.weights import fixed_text, load_vae
from seedvr2_lab.training.loop import train
from seedvr2_lab.training.regression import TINY, latent_pair, low_quality, regression_loss


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_low_quality_twin_is_the_same_picture_with_less_in_it():
    clip = sample_clips("validation", 1, 3, (64, 96), generator())[0]
    low = low_quality(clip, generator())
    assert low.shape == clip.shape and 15 < psnr(low, clip) < 40


@torch.no_grad()
def test_pairs_keep_their_order():
    vae, clips = VideoVAE(vae_config("small")), sample_clips("validation", 3, 1, (32, 32), generator())
    low, high = latent_pair(vae, clips, generator())
    torch.testing.assert_close(high, vae.to_latent(clips))
    first = low_quality(clips[0], generator())
    torch.testing.assert_close(low[:1], vae.to_latent(first[None]))


def test_pictures_do_not_feel_a_training_steps_autocast():
    class Untouched(nn.Linear):
        def to_latent(self, clips):
            return clips

    clips = sample_clips("validation", 2, 1, (32, 32), generator())
    plain = latent_pair(Untouched(1, 1), clips, generator())
    with torch.autocast("cpu", torch.bfloat16):
        inside = latent_pair(Untouched(1, 1), clips, generator())
    assert all(torch.equal(*pair) for pair in zip(plain, inside, strict=True))


@pytest.mark.slow
def test_it_learns(tmp_path):
    dit = DiT(transformer_config("tiny"))
    loss = regression_loss(load_vae("small"), fixed_text(dit.config.dim))
    before = loss(dit, 0, generator(7))["loss"].item()
    dit = train(dit, loss, dataclasses.replace(TINY[0], steps=60, warmup=20), tmp_path)
    with torch.no_grad():
        assert loss(dit, 0, generator(7))["loss"].item() < 0.5 * before
