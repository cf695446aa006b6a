"""GANs in the plane: meters that count right, fair arms, a known solution, and numbers that change only with RECIPE."""

from dataclasses import replace
from math import log

import pytest
import torch

from seedvr2_lab.console import InputError
from seedvr2_lab.lab import arms, toy_gan
from seedvr2_lab.lab.toy_gan import ARMS, MODES, SPREAD, draw, judge, players, run_arm, toy_settings, two_numbers
from seedvr2_lab.training.losses import AdversarialLosses

# The discriminator's loss and its logit gap in three steps. If they differ, the study's numbers have changed: raise
# RECIPE in lab/arms.py and store the new trace here.
TRACE = {"recipe": 1, "losses": [0.74914, 0.54129, 0.46242], "gaps": [-0.09655, 0.35556, 0.68838]}


def small(arm: str, data: str = "grid", seed: int = 0, **changes) -> toy_gan.Settings:
    settings = toy_settings(data, arm, seed, "smoke", **changes)
    training = replace(settings.training, steps=3, warmup=1, log_every=1, checkpoint_every=1)
    return replace(settings, training=training, samples=500)


def run(settings: toy_gan.Settings, folder):
    return run_arm(settings, folder, folder / "runs")


def test_trace(tmp_path):
    found = run(small("rpgan aR1+aR2"), tmp_path)
    assert TRACE["recipe"] == arms.RECIPE
    assert [loss for _, loss in found["curves"]["discriminator.loss"]] == pytest.approx(TRACE["losses"], rel=1e-3)
    assert [gap for _, gap in found["curves"]["discriminator.gap"]] == pytest.approx(TRACE["gaps"], rel=1e-2)
    assert [step for step, _ in found["curves"]["modes"]] == [1, 2, 3]
    assert len(found["points"]) == 500 and len(found["surface"]) == toy_gan.SURFACE


@pytest.mark.parametrize("data", MODES)
def test_real_points_are_judged_as_real(data):
    count = len(MODES[data])
    found = judge(draw(data, 20_000, torch.Generator().manual_seed(0)), data)
    assert found.modes == count
    assert found.quality == pytest.approx(0.989, abs=0.005)  # of a Gaussian in the plane within 3 standard deviations
    assert found.kl < 0.01


@pytest.mark.parametrize("kept", [1, 3, 8])
def test_lost_modes_are_counted(kept):
    centres = MODES["ring"][:kept].repeat(100, 1)
    found = judge(centres, "ring")
    assert found.modes == kept and found.quality == 1
    assert found.kl == pytest.approx(log(8 / kept), abs=1e-5)


def test_a_mode_needs_a_tenth_of_its_share_of_good_samples():
    centres = MODES["ring"].repeat(100, 1)
    beside = MODES["ring"][0] + torch.tensor([3.1 * SPREAD, 0.0])
    for good, modes in ((11, 8), (9, 7)):
        points = centres.clone()
        points[::8][good:] = beside
        found = judge(points, "ring")
        assert found.modes == modes
        assert found.quality == pytest.approx(1 - (100 - good) / 800)
        assert found.kl == pytest.approx(0, abs=1e-5)  # they still fall to their mode


def test_arms_of_a_seed_start_alike_and_see_the_same_points(monkeypatch):
    first, seen = {}, {}
    real = toy_gan.draw
    for arm in ARMS:
        both, seen[arm] = players(small(arm)), []
        monkeypatch.setattr(toy_gan, "draw", lambda *given, arm=arm: seen[arm].append(real(*given)) or seen[arm][-1])
        first[arm] = torch.cat([value.flatten() for one in both.values() for value in one.model.parameters()])
        generator = torch.Generator().manual_seed(5)
        for player in both.values():
            player.loss(player.model, 0, generator)
    for arm in ARMS[1:]:
        assert torch.equal(first[arm], first[ARMS[0]])
        assert all(torch.equal(a, b) for a, b in zip(seen[arm], seen[ARMS[0]], strict=True))
    other = players(small(ARMS[0], seed=1))["generator"].model
    assert not torch.equal(next(other.parameters()), next(players(small(ARMS[0]))["generator"].model.parameters()))


def test_weights_of_both_kinds_of_penalties_are_the_same_to_first_order():
    exact = toy_settings("grid", "rpgan R1+R2", 0, "smoke", gamma=0.4).losses
    approximated = toy_settings("grid", "rpgan aR1+aR2", 0, "smoke", gamma=0.4, sigma=0.1).losses
    assert (exact.r1, exact.r2, exact.penalty) == (0.2, 0.2, "exact")
    assert approximated.penalty == "approximate"
    assert approximated.r1 * approximated.sigma**2 == pytest.approx(0.2)
    only_real = toy_settings("ring", "ns aR1", 0, "smoke").losses
    assert only_real.pairing == "non_saturating" and only_real.r1 > 0 == only_real.r2


def test_the_discriminators_loss_with_tiny_noise_is_the_one_with_exact_penalties():
    """Over many points, so that the noise averages out; the penalties are most of the loss here."""
    found = {}
    for arm in ("rpgan R1+R2", "rpgan aR1+aR2"):
        settings = replace(small(arm, gamma=200.0, sigma=1e-3), batch=20_000)
        player = players(settings)["discriminator"]
        found[arm] = player.loss(player.model, 0, torch.Generator().manual_seed(0))
    exact, approximated = found.values()
    assert exact["gan"] == approximated["gan"]
    assert exact["loss"] > 2 * exact["gan"]
    torch.testing.assert_close(approximated["loss"], exact["loss"], rtol=0.03, atol=0)


def test_the_smallest_gan_circles_without_a_penalty_and_falls_in_with_one():
    for pairing in ("rpgan", "non_saturating"):
        free = two_numbers(AdversarialLosses(pairing, r1=0, r2=0)).norm(dim=1)
        held = two_numbers(AdversarialLosses(pairing, r1=0.1, r2=0.1)).norm(dim=1)
        assert free[0] == held[0] == 1
        assert free[-1] > 0.4 and held[-1] < 1e-3


def test_training_towards_the_ring_finds_its_radius(tmp_path):
    settings = toy_settings("ring", "rpgan R1+R2", 0, "smoke")
    before = toy_gan.sample(players(settings)["generator"].model, settings).norm(dim=1).mean()
    after = torch.tensor(run(settings, tmp_path)["points"]).norm(dim=1).mean()
    assert before < 0.5 and 1.5 < after < 2.5


def test_a_kept_result_is_not_computed_again(tmp_path, monkeypatch):
    first = run(small("ns none"), tmp_path)
    monkeypatch.setattr(toy_gan, "train_players", lambda *_, **__: pytest.fail("trained again"))
    assert run(small("ns none"), tmp_path) == first


def test_unknown_names_are_told():
    with pytest.raises(InputError, match="no arm 'rpgan R3': choose one of rpgan none"):
        toy_settings("grid", "rpgan R3", 0, "smoke")
    with pytest.raises(InputError, match="no points 'spiral': choose one of grid, ring"):
        toy_settings("spiral", "rpgan R1", 0, "smoke")
