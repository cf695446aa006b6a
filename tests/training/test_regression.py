"""Regression of a one-step generator: what it is given, and that it learns."""

import dataclasses

import pytest
import torch

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
def test_pairs_keep_their_order_and_do_not_feel_autocast_in_the_pictures():
    vae, clips = VideoVAE(vae_config("small")), sample_clips("validation", 3, 1, (32, 32), generator())
    low, high = latent_pair(vae, clips, generator())
    torch.testing.assert_close(high, vae.to_latent(clips))
    with torch.autocast("cpu", torch.bfloat16):
        low_auto, _ = latent_pair(vae, clips, generator())
    assert low_auto.dtype == torch.float32
    assert (low_auto - low).abs().mean() < 0.02 * low.abs().mean()


@pytest.mark.slow
def test_it_learns(tmp_path):
    dit = DiT(transformer_config("tiny"))
    loss = regression_loss(load_vae("small"), fixed_text(dit.config.dim))
    before = loss(dit, 0, generator(7))["loss"].item()
    dit = train(dit, loss, dataclasses.replace(TINY, steps=60, warmup=20), tmp_path)
    with torch.no_grad():
        assert loss(dit, 0, generator(7))["loss"].item() < 0.5 * before
