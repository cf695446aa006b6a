"""Regression of a one-step generator: that it learns."""

import dataclasses

import pytest
import torch

from seedvr2_lab.config import transformer_config
from seedvr2_lab.model.dit import DiT
from seedvr2_lab.model.weights import fixed_text, load_vae
from seedvr2_lab.training.loop import train
from seedvr2_lab.training.pairs import encode_pairs
from seedvr2_lab.training.regression import regression_loss, restore_latent
from seedvr2_lab.training.schedule import SCRATCH


def test_the_loss_is_the_mean_distance_of_the_pairs_that_the_step_drew():
    torch.manual_seed(0)
    dit, text = DiT(transformer_config("study")), fixed_text(96)
    pictures, clips = (encode_pairs(load_vae("small"), 4, frames, (32, 32), at_once=4) for frames in (1, 5))
    loss = regression_loss([(pictures, 3), (clips, 2)], text)
    for step, (pool, count) in enumerate([(pictures, 3), (clips, 2), (pictures, 3)]):
        low, high = pool.draw(count, torch.Generator().manual_seed(step))
        expected = (restore_latent(dit, low, text) - high).abs().mean()
        torch.testing.assert_close(loss(dit, step, torch.Generator().manual_seed(step))["loss"], expected)


@pytest.mark.slow
def test_it_learns(tmp_path):
    dit, text = DiT(transformer_config("tiny")), fixed_text(128)
    loss = regression_loss([(encode_pairs(load_vae("small"), 32, 1, (128, 128)), 16)], text)
    before = loss(dit, 0, torch.Generator().manual_seed(7))["loss"].item()
    dit = train(dit, loss, dataclasses.replace(SCRATCH, steps=60, warmup=20), tmp_path)
    with torch.no_grad():
        assert loss(dit, 0, torch.Generator().manual_seed(7))["loss"].item() < 0.5 * before
