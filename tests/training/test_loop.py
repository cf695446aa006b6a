"""The loop: same seed, same result; interrupted and resumed, same result; bad numbers end it."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from seedvr2_lab.console import InputError
from seedvr2_lab.training.loop import TrainConfig, train

CONFIG = TrainConfig(steps=12, learning_rate=1e-2, warmup=3, checkpoint_every=4, log_every=2, bf16=False)


def model():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))


def loss(net, step, generator):
    x = torch.randn(16, 4, generator=generator)
    return {"loss": (net(x) - x.sum(1, keepdim=True)).square().mean()}


class Killed(Exception):
    pass


def killed_at(last_step):
    def dies(net, step, generator):
        if step == last_step:
            raise Killed
        return loss(net, step, generator)

    return dies


def weights(net):
    return torch.cat([value.flatten() for value in net.state_dict().values()])


@pytest.mark.parametrize("step", [0, 3, 4, 7, 11])
def test_a_killed_run_resumes_to_the_same_weights_and_log(tmp_path, step):
    whole = train(model(), loss, CONFIG, tmp_path / "whole")
    with pytest.raises(Killed):
        train(model(), killed_at(step), CONFIG, tmp_path / "broken")
    resumed = train(model(), loss, CONFIG, tmp_path / "broken")
    assert torch.equal(weights(whole), weights(resumed))
    steps = [
        [json.loads(line)["step"] for line in (tmp_path / run / "log.jsonl").read_text().splitlines()]
        for run in ("whole", "broken")
    ]
    assert steps[0] == steps[1] == [2, 4, 6, 8, 10, 12]


def test_the_seed_decides(tmp_path):
    first, again, other = (train(model(), loss, replace(CONFIG, seed=seed), None) for seed in (0, 0, 1))
    assert torch.equal(weights(first), weights(again)) and not torch.equal(weights(first), weights(other))


def test_it_learns():
    before, after = model(), train(model(), loss, replace(CONFIG, steps=300), None)
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(9))
    error = [(net(x) - x.sum(1, keepdim=True)).square().mean() for net in (before, after)]
    assert error[1] < 0.1 * error[0]


def test_another_configuration_does_not_go_on_from_here(tmp_path):
    train(model(), loss, CONFIG, tmp_path)
    with pytest.raises(InputError, match="other settings"):
        train(model(), loss, replace(CONFIG, learning_rate=1e-3), tmp_path)


def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(tmp_path):
    def breaks(net, step, generator):
        return {"loss": loss(net, step, generator)["loss"] * (float("nan") if step == 6 else 1)}

    with pytest.raises(FloatingPointError, match="step 6"):
        train(model(), breaks, CONFIG, tmp_path)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 4
