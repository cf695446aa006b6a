"""Second looks: the differences that the notebooks of a first look measure, from other seeds."""

import re

import pytest

from seedvr2_lab.console import InputError
from seedvr2_lab.lab import arms, second_look
from seedvr2_lab.lab import recipe_study as recipe
from seedvr2_lab.lab import window_study as windows
from seedvr2_lab.lab.claims import BY_ID, REASONS, Report
from seedvr2_lab.model.weights import load_generator, load_vae
from seedvr2_lab.training.validation import crops_of, mean_figures


@pytest.fixture(scope="module")
def vae():
    return load_vae("small")


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """Arms of these tests are kept apart from those of the checkout."""
    monkeypatch.setattr(arms, "default_folder", lambda: tmp_path / "arms")
    for module in (arms, recipe, windows):
        monkeypatch.setattr(module, "CHECKOUT", tmp_path)


def test_of_steps(vae):
    claim = BY_ID["many steps, texture"]
    (found,) = second_look.differences(claim, [7], "smoke", vae, "validation")
    crops, teacher = crops_of("validation", vae, recipe.PRESETS, 1, 3, 7), load_generator("teacher")
    many, one = (
        vae.to_clips(teacher.restore(crops.pairs.low_BCTHW, crops.noise_BCTHW, steps)).clamp(0, 1) for steps in (64, 1)
    )
    expected = [mean_figures(each, crops.clips_BCTHW)["texture"] for each in (many, one)]
    assert found == pytest.approx(expected[0] - expected[1])


@pytest.mark.parametrize("claim", [BY_ID["size distillation"], REASONS[0].second_look], ids=lambda claim: claim.id)
def test_of_arms(claim, vae):
    (found,) = second_look.differences(claim, [7], "smoke", vae)
    left, right = (
        recipe.run_arm(recipe.study_settings(arm, 7, "smoke"), vae)["figures"]["1"][claim.meter]
        for arm in (claim.left, claim.right)
    )
    assert found == left - right


def test_of_windows(vae):
    claim = BY_ID["seams"]
    (found,) = second_look.differences(claim, [7], "smoke", vae)
    rows = {
        arm: windows.run_arm(windows.study_settings(arm, 7, "smoke", ["own", "fixed"]), vae)["tests"]
        for arm in ("adaptive", "fixed")
    }
    beyond = {
        arm: [row["seam"] for row in of_arm if row["windows"] == arm and row["grid"] != "18x32"]
        for arm, of_arm in rows.items()
    }
    assert beyond["adaptive"] and found == pytest.approx(
        sum(beyond["adaptive"]) / len(beyond["adaptive"]) - sum(beyond["fixed"]) / len(beyond["fixed"])
    )
    with pytest.raises(ValueError, match="evaluation pictures alone"):
        second_look.differences(claim, [7], "smoke", vae, "validation")


def test_seeds_are_fresh_unless_a_report_or_an_exploration_has_used_them():
    report = Report("11_losses", None, {"config": {"seeds": [0, 1]}})
    second_look.check_fresh([200, 201], [report])
    for seeds in ([1, 200], [100]):
        with pytest.raises(InputError, match=re.escape(f"seeds [{min(seeds)}] were looked at before")):
            second_look.check_fresh(seeds, [report])
    second_look.check_fresh([100], [report], explored=[300])
