"""The recipe study: fair arms, results that are reused, and numbers that change only together with RECIPE."""

import json
import re
from dataclasses import replace

import pytest
import torch

from seedvr2_lab.console import InputError
from seedvr2_lab.lab import arms, lossless, recipe_study
from seedvr2_lab.lab.recipe_study import ARMS, described, difference, run_arm, run_bounds, study_settings
from seedvr2_lab.model.weights import load_generator, load_vae
from seedvr2_lab.training.loop import last_rows
from seedvr2_lab.training.validation import crops_of


@pytest.fixture(scope="module")
def vae():
    return load_vae("small")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("arms")


@pytest.fixture(autouse=True)
def own_pools(monkeypatch, folder):
    monkeypatch.setattr(recipe_study, "CHECKOUT", folder)


def small(arm, seed=0, **changes):
    settings = study_settings(arm, seed, "smoke")
    work = replace(settings.work, tests=((1, 2), (5, 1)))
    return replace(settings, work=work, training=replace(settings.training, bf16=False, **changes))


def run(settings, vae, folder):
    return run_arm(settings, vae, folder, folder / "runs")


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_runs_and_is_read_again(arm, vae, folder, monkeypatch):
    found = run(small(arm), vae, folder)
    assert set(found["figures"]) == {"1", "5"} and {"psnr", "texture"} < set(found["figures"]["1"])
    assert "flicker" in found["figures"]["5"] and len(found["views"]) == 2
    assert bool(found["log"]) == (ARMS[arm].way != "as it is")
    told = sum(int(number) for number in re.findall(r"\d+", described(small(arm))))
    assert told == sum(row["step"] for row in last_rows(found["log"]))
    monkeypatch.setattr(recipe_study, "restored", None)  # nothing may be computed again
    assert run(small(arm), vae, folder) == found


def test_what_is_not_trained_is_the_bundled_model(vae, folder):
    settings = small("distilled")
    crops = recipe_study.test_crops(vae, settings, 1)
    made = load_generator("distilled")
    latent = made.restore(crops.pairs.low_BCTHW, crops.noise_BCTHW)
    expected = recipe_study.figures_of(vae.to_clips(latent).clamp(0, 1), crops)
    assert run(settings, vae, folder)["figures"]["1"] == pytest.approx(expected, abs=1e-3)
    bounds = run_bounds(settings, vae, folder)
    assert bounds["bicubic"]["1"]["psnr"] < bounds["VAE"]["1"]["psnr"]


def test_arms_of_a_seed_see_the_same_and_other_seeds_do_not(vae):
    first, second, other = (small("rpgan"), small("full"), small("rpgan", 1))
    drawn = [
        recipe_study.feed(one, vae)(3, torch.Generator().manual_seed(one.training.seed))[0][0]
        for one in (first, second, other)
    ]
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
    crops = [recipe_study.test_crops(vae, one, 1).clips_BCTHW for one in (first, second, other)]
    assert torch.equal(crops[0], crops[1]) and not torch.equal(crops[0], crops[2])


def test_arms_differ_where_they_should(vae, folder):
    """Two steps from the same start: the losses' switches move the weights apart."""
    results = {arm: run(small(arm), vae, folder)["figures"]["1"]["psnr"] for arm in ("apt", "rpgan", "+l1", "+fm")}
    assert len({round(value, 6) for value in results.values()}) > 1
    logs = {arm: run(small(arm), vae, folder)["log"][-1] for arm in ("apt", "rpgan")}
    assert "discriminator.r2" not in logs["apt"] and "discriminator.r2" in logs["rpgan"]


def test_chains_share_the_training_steps(vae, folder):
    settings = small("progressive", steps=12)
    rows = run(settings, vae, folder)["log"]
    assert [row["step"] for row in rows] == [1, 2] * 6
    short = run(small("short chain", steps=12), vae, folder)["log"]
    assert short[-1]["step"] == 4


def test_differences_are_paired():
    runs = {name: [{"figures": {"1": {"psnr": value}}} for value in values] for name, values in
            {"a": (3.0, 5.0), "b": (1.0, 2.0)}.items()}  # fmt: skip
    assert difference(runs, "a", "b", "psnr") == [2.0, 3.0]


def test_unknown_names():
    with pytest.raises(InputError, match="no arm 'hinge'"):
        study_settings("hinge", 0, "smoke")
    with pytest.raises(InputError, match="no profile 'huge'"):
        study_settings("rpgan", 0, "huge")


def test_settings_can_be_kept(vae):
    for arm in ARMS:
        json.dumps(arms.arm_key({"arm": study_settings(arm, 0, "laptop")}))
    keys = {arms.arm_key({"arm": study_settings(arm, 0, "laptop")}) for arm in ARMS}
    assert len(keys) == len(ARMS)
    assert not [name for name in ARMS if "," in name]  # --arms takes several, with commas between them


def test_the_key_of_an_arm_holds_what_its_way_and_start_add(vae, monkeypatch):
    def key(name, part="evaluation"):
        return arms.arm_key(recipe_study._key(study_settings(name, 0, "smoke"), vae, part))

    names = ("apt quiet", "both", "smaller", "smaller alone", "full lossless", "rpgan")
    before = {name: key(name) for name in names}
    monkeypatch.setattr(recipe_study, "QUIET", 0.5)
    monkeypatch.setattr(recipe_study, "DISTILL", replace(recipe_study.DISTILL, learning_rate=1.0))
    monkeypatch.setattr(recipe_study, "SMALLER", "tiny")
    monkeypatch.setattr(lossless, "STD", 1.0)
    after = {name: key(name) for name in names}
    assert [name for name in names if before[name] == after[name]] == ["rpgan"]
    assert key("rpgan", "validation") != key("rpgan")


def test_what_chooses_is_tested_on_validation_pictures(vae, folder):
    settings = small("teacher")
    chosen = run_arm(settings, vae, folder, folder / "runs", part="validation")
    assert chosen["figures"] != run(settings, vae, folder)["figures"]
    crops = recipe_study.test_crops(vae, settings, 1, "validation")
    assert torch.equal(crops.clips_BCTHW, crops_of("validation", vae, recipe_study.PRESETS, 1, 2, 0).clips_BCTHW)


def test_starts_and_students_are_what_their_names_say(vae):
    quiet, taught, _ = recipe_study._models(small("apt quiet"), vae)
    assert (quiet.noise_scale, taught.noise_scale) == (recipe_study.QUIET, 1.0)
    assert torch.equal(quiet.dit.vid_in.proj.weight, taught.dit.vid_in.proj.weight)
    halvings = recipe_study._before(small("both"))
    assert halvings.arm.way == "progressive" and halvings.training == study_settings("progressive", 0, "smoke").training
