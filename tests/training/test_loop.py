"""The loop: same seed, same result; interrupted and resumed, same result; bad numbers end it."""

import json
from collections import OrderedDict
from dataclasses import replace

import pytest
import torch
from torch import nn

from seedvr2_lab.console import InputError
from seedvr2_lab.model.tensor_file import mapped
from seedvr2_lab.training.loop import Player, TrainConfig, TrainingFailed, train, train_players

CONFIG = TrainConfig(steps=12, learning_rate=1e-2, warmup=3, checkpoint_every=4, log_every=2, bf16=False)


def model():
    torch.manual_seed(1)
    layers = {"blocks": nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh()), "out": nn.Linear(8, 1)}
    return nn.Sequential(OrderedDict(layers))


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


@pytest.mark.parametrize("cut", ['{"step": 9, "lo', ""])
def test_a_log_that_was_cut_off_does_not_stand_in_the_way(tmp_path, cut):
    train(model(), loss, replace(CONFIG, steps=4), tmp_path)
    log = (tmp_path / "log.jsonl").read_text()
    (tmp_path / "log.jsonl").write_text(log + cut)
    train(model(), loss, replace(CONFIG, steps=4), tmp_path)
    assert (tmp_path / "log.jsonl").read_text() == log


@pytest.mark.parametrize("muon", [False, True])
@pytest.mark.parametrize("step", [0, 3, 4, 7, 11])
def test_a_killed_run_resumes_to_the_same_weights_and_log(tmp_path, step, muon):
    config = replace(CONFIG, muon=muon)
    whole = train(model(), loss, config, tmp_path / "whole")
    with pytest.raises(Killed):
        train(model(), killed_at(step), config, tmp_path / "broken")
    resumed = train(model(), loss, config, tmp_path / "broken")
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


def test_muon_moves_the_matrices_of_the_blocks_and_nothing_else():
    plain, muon = (train(model(), loss, replace(CONFIG, steps=1, muon=muon), None) for muon in (False, True))
    same = {name for name, value in plain.state_dict().items() if torch.equal(value, muon.state_dict()[name])}
    assert same == {"blocks.0.bias", "blocks.2.bias", "out.weight", "out.bias"}


def test_another_configuration_does_not_go_on_from_here(tmp_path):
    train(model(), loss, CONFIG, tmp_path)
    with pytest.raises(InputError, match="other settings"):
        train(model(), loss, replace(CONFIG, learning_rate=1e-3), tmp_path)


def test_a_loss_that_is_not_finite_keeps_the_last_checkpoint(tmp_path):
    def breaks(net, step, generator):
        return {"loss": loss(net, step, generator)["loss"] * (float("nan") if step == 6 else 1)}

    with pytest.raises(TrainingFailed, match=r"step 6: the loss is nan; the last checkpoint is .*\.safetensors"):
        train(model(), breaks, CONFIG, tmp_path)
    assert mapped(tmp_path / "checkpoint.safetensors")[0]["step"] == "4"


def rivals():
    """Two players of a saddle, each held against the other's weights."""

    def seeker(net, step, generator):
        assert net.weight.requires_grad and not hider_net.weight.requires_grad
        return {"loss": (net.weight * hider_net.weight).sum() + loss(net, step, generator)["loss"]}

    def hider(net, step, generator):
        assert net.weight.requires_grad and not seeker_net.weight.requires_grad
        return {"loss": -(net.weight * seeker_net.weight).sum() + net.weight.square().sum(), "gap": net.weight.sum()}

    torch.manual_seed(3)
    seeker_net, hider_net = nn.Linear(4, 1), nn.Linear(4, 1)
    return {"seeker": Player(seeker_net, seeker), "hider": Player(hider_net, hider)}


def test_players_take_turns_with_the_others_frozen_and_are_logged_by_name(tmp_path):
    before = {name: weights(player.model) for name, player in rivals().items()}
    nets = train_players(rivals(), CONFIG, tmp_path)
    assert all(not torch.equal(weights(nets[name]), before[name]) for name in nets)
    assert all(value.requires_grad for net in nets.values() for value in net.parameters())
    row = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[0])
    assert {"seeker.loss", "hider.loss", "hider.gap", "seeker.gradient_norm"} < set(row)


@pytest.mark.parametrize("step", [1, 4, 9])
def test_killed_players_resume_to_the_same_weights(tmp_path, step):
    whole = train_players(rivals(), CONFIG, tmp_path / "whole")
    players = rivals()
    broken = players["hider"]

    def dies(net, at, generator):
        if at == step:
            raise Killed
        return broken.loss(net, at, generator)

    with pytest.raises(Killed):
        train_players(players | {"hider": broken._replace(loss=dies)}, CONFIG, tmp_path / "broken")
    resumed = train_players(rivals(), CONFIG, tmp_path / "broken")
    assert all(torch.equal(weights(whole[name]), weights(resumed[name])) for name in whole)


def test_accumulated_batches_make_the_step_of_one_large_batch():
    data = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))

    def at_once(net, step, generator):
        return {"loss": (net(data) - data.sum(1, keepdim=True)).square().mean()}

    calls = []

    def counted(net, step, generator):
        part = data[:16] if len(calls) % 2 == 0 else data[16:]
        calls.append(step)
        return {"loss": (net(part) - part.sum(1, keepdim=True)).square().mean()}

    config = replace(CONFIG, steps=5)
    accumulated = train(model(), counted, replace(config, accumulate=2), None)
    torch.testing.assert_close(weights(accumulated), weights(train(model(), at_once, config, None)))
    assert calls == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
