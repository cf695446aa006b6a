"""The adversarial step: what each player minimises, mixed sizes, growing clips, collapse and resume."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from seedvr2_lab.config import transformer_config
from seedvr2_lab.model.discriminator import Discriminator, DiscriminatorConfig
from seedvr2_lab.model.dit import DiT, DiTConfig
from seedvr2_lab.training import adversarial
from seedvr2_lab.training.adversarial import (
    adversarial_players,
    discriminator_step,
    generate,
    generator_step,
    growing,
    mixed,
    round_robin,
)
from seedvr2_lab.training.loop import TrainConfig, TrainingFailed, train_players
from seedvr2_lab.training.losses import ARMS, AdversarialLosses
from seedvr2_lab.training.pairs import Pairs

CONFIG = DiTConfig(dim=32, layers=2, heads=1, head_dim=32, mlp_hidden=32, in_channels=5, out_channels=2)
TEXT = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
RUN = TrainConfig(steps=6, learning_rate=1e-3, warmup=1, checkpoint_every=2, log_every=1, bf16=False)


def pool(frames=1, size=(4, 6), count=12, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return Pairs(*(torch.randn(count, 2, frames, *size, generator=generator) for _ in range(2)))


def networks(seed=0, **changes):
    torch.manual_seed(seed)
    config = replace(CONFIG, **changes)
    return DiT(config), Discriminator(DiscriminatorConfig(config))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_players_minimise_the_weighted_sum_of_their_terms():
    dit, discriminator = networks()
    feed, losses = round_robin([(pool(), 4)]), replace(ARMS["+fm"], r1=3.0, r2=5.0, sigma=0.2)
    found = discriminator_step(dit, feed, TEXT, losses)(discriminator, 0, generator())
    assert set(found) == {"gan", "r1", "r2", "loss", "gap"}
    torch.testing.assert_close(found["loss"], found["gan"] + 3 * found["r1"] + 5 * found["r2"])
    found = generator_step(discriminator, feed, TEXT, losses)(dit, 0, generator())
    torch.testing.assert_close(found["loss"], found["gan"] + found["l1"] + found["feature_matching"])


@pytest.mark.parametrize("scale", [0.0, 0.5])
def test_the_generator_starts_from_the_noise_it_knows(scale):
    dit, discriminator = networks()
    starts = []
    dit.register_forward_pre_hook(lambda module, given: starts.append(given[0][:, :2].std().item()))
    players = adversarial_players(dit, discriminator, round_robin([(pool(), 12)]), TEXT, ARMS["final"], scale)
    for player in players.values():
        player.loss(player.model, 0, generator())
    assert starts == pytest.approx([scale, scale], rel=0.15)


def test_terms_without_weight_are_not_computed():
    dit, discriminator = networks()
    feed = round_robin([(pool(), 4)])
    found = discriminator_step(dit, feed, TEXT, ARMS["apt"])(discriminator, 0, generator())
    assert set(found) == {"gan", "r1", "loss", "gap"}
    only_l1 = AdversarialLosses(gan=0, l1=1)
    assert set(generator_step(discriminator, feed, TEXT, only_l1)(dit, 0, generator())) == {"l1", "loss"}


def test_exact_penalties_run_on_the_reference_path():
    dit, discriminator = networks(attention="reference")
    losses = AdversarialLosses(penalty="exact", r1=0.1, r2=0.1)
    for feed in (round_robin([(pool(), 3)]), mixed([(pool(), 2), (pool(3, (6, 2)), 1)])):
        found = discriminator_step(dit, feed, TEXT, losses)(discriminator, 0, generator())
        found["loss"].backward()
        assert found["r1"] > 0 and found["r2"] > 0 and discriminator.backbone.vid_in.proj.weight.grad.abs().max() > 0


@torch.no_grad()
def test_a_list_of_clips_is_restored_as_a_tensor_of_them():
    dit, _ = networks()
    low, noise = pool().low_BCTHW[:3], torch.randn(3, 2, 1, 4, 6)
    together = generate(dit, low, noise, TEXT)
    torch.testing.assert_close(torch.stack(generate(dit, list(low), list(noise), TEXT)), together, atol=2e-5, rtol=0)


@torch.no_grad()
def test_a_mixed_batch_gives_each_clip_the_loss_it_has_alone():
    discriminator = networks()[1]
    long = pool(3, (6, 2))
    low, real = mixed([(pool(), 2), (long, 1)])(0, generator())
    assert [tuple(clip.shape) for clip in low] == [(2, 1, 4, 6)] * 2 + [(2, 3, 6, 2)] and len(real) == 3
    time = torch.tensor([100.0, 500.0, 900.0])
    together = discriminator(real, low, TEXT, time).logits_B
    alone = [discriminator([a], [b], TEXT, t).logits_B for a, b, t in zip(real, low, time, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), atol=2e-5, rtol=0)


def test_clips_grow_when_their_time_comes():
    feeds = [(0, round_robin([(pool(1), 2)])), (3, round_robin([(pool(3), 2)])), (5, round_robin([(pool(5), 1)]))]
    lengths = [growing(feeds)(step, generator())[0].shape[2] for step in range(7)]
    assert lengths == [1, 1, 1, 3, 3, 5, 5]


def test_training_moves_both_and_the_discriminator_learns_to_tell_them_apart():
    dit, discriminator = networks()
    before = {name: value.clone() for name, value in dit.state_dict().items()}
    shifted = pool(count=64)._replace(high_BCTHW=pool(count=64).high_BCTHW + 2)
    losses, settings = AdversarialLosses(r1=0.1, r2=0.1), replace(RUN, steps=60, learning_rate=2e-3)
    frozen = round_robin([(shifted, 8)])
    step = discriminator_step(dit, frozen, TEXT, losses)
    first = step(discriminator, 0, generator(5))["gap"].item()
    players = adversarial_players(dit, discriminator, frozen, TEXT, losses)
    nets = train_players({"discriminator": players["discriminator"]}, settings, None)
    assert step(nets["discriminator"], 0, generator(5))["gap"].item() > first + 0.2
    nets = train_players(players, replace(RUN, steps=2), None)
    assert any(not torch.equal(value, before[name]) for name, value in nets["generator"].state_dict().items())


@pytest.mark.parametrize("constant", [0.0, 100.0])
def test_a_collapsed_discriminator_ends_the_training(constant, monkeypatch):
    class Collapsed(nn.Module):
        """Says the same of everything, or is sure of everything."""

        def __init__(self):
            super().__init__()
            self.weight, self.calls = nn.Parameter(torch.ones(())), 0

        def forward(self, clips, low, text, time):
            self.calls += 1
            sign = 1 if self.calls % 2 else -1  # real first, fake second
            return adversarial.Judgement(self.weight * sign * constant * torch.ones(len(clips)), [], ())

    monkeypatch.setattr(adversarial, "PATIENCE", 5)
    dit, _ = networks()
    losses = AdversarialLosses(r1=0, r2=0)
    players = adversarial_players(dit, Collapsed(), round_robin([(pool(), 2)]), TEXT, losses)
    with pytest.raises(TrainingFailed, match="step 4: the discriminator has collapsed"):
        train_players({"discriminator": players["discriminator"]}, RUN, None)


@pytest.mark.parametrize("killed_at", [1, 3, 5])
def test_a_killed_run_resumes_to_the_same_weights(tmp_path, killed_at):
    def run(out, dies=None):
        feed = growing([(0, round_robin([(pool(), 3)])), (4, mixed([(pool(), 2), (pool(3), 1)]))])

        def deadly(step, random):
            if step == dies:
                raise KeyboardInterrupt
            return feed(step, random)

        players = adversarial_players(*networks(), deadly, TEXT, ARMS["+fm"])
        return train_players(players, RUN, tmp_path / out)

    whole = run("whole")
    with pytest.raises(KeyboardInterrupt):
        run("broken", killed_at)
    resumed = run("broken")
    for name in whole:
        for one, other in zip(whole[name].state_dict().values(), resumed[name].state_dict().values(), strict=True):
            assert torch.equal(one, other)


@pytest.mark.slow
def test_a_step_at_the_full_width_of_the_3b_model():
    """Both players, two layers of each kind of weights, 12 GB."""
    config = transformer_config("3b", layers=2, separate_layers=1)
    assert config.dim == 2560 and config.text_channels == 5120
    torch.manual_seed(0)
    dit = DiT(config)
    discriminator = Discriminator.from_teacher(dit)
    dit.checkpointing = discriminator.backbone.checkpointing = True
    random = torch.Generator().manual_seed(0)
    pictures, clips = (
        Pairs(*(torch.randn(2, 16, frames, 12, 16, generator=random) for _ in range(2))) for frames in (1, 3)
    )
    text = torch.randn(58, 5120, generator=random)
    before = [network.vid_in.proj.weight.detach().clone() for network in (dit, discriminator.backbone)]
    rows = {}
    players = adversarial_players(dit, discriminator, mixed([(pictures, 1), (clips, 1)]), text, ARMS["final"])
    watched = {
        name: player._replace(loss=lambda *given, name=name, loss=player.loss: rows.setdefault(name, loss(*given)))
        for name, player in players.items()
    }
    train_players(watched, TrainConfig(steps=1, learning_rate=1e-4, warmup=1, ema=0.0), None)
    assert set(rows["discriminator"]) == {"gan", "r1", "r2", "loss", "gap"}
    assert set(rows["generator"]) == {"gan", "l1", "feature_matching", "loss"}
    assert all(torch.isfinite(value) for row in rows.values() for value in row.values())
    after = [network.vid_in.proj.weight for network in (dit, discriminator.backbone)]
    assert all(not torch.equal(*weights) for weights in zip(before, after, strict=True))
