"""The window study: fair arms, borders where they are, and numbers that change only together with RECIPE."""

from dataclasses import replace

import pytest
import torch

from seedvr2_lab import config
from seedvr2_lab.console import InputError
from seedvr2_lab.lab import arms, window_study
from seedvr2_lab.lab.claims import of_notebook
from seedvr2_lab.lab.window_study import (
    GRIDS,
    MIXED,
    SCHEMES,
    TRAINING_GRID,
    borders,
    measure,
    run_arm,
    score,
    study_settings,
)
from seedvr2_lab.model.vae import VideoVAE
from seedvr2_lab.model.weights import fixed_text
from seedvr2_lab.model.windows import partition
from seedvr2_lab.training.regression import regression_loss

# Losses of three steps and the PSNR of the three test crops. If they differ, the study's numbers have changed: raise
# RECIPE in lab/arms.py and store the new trace here.
TRACE = {"recipe": 1, "losses": [0.49602, 0.40815, 0.31671], "psnr": [13.0994, 9.2228, 10.0377]}


def small(arm: str = "adaptive", seed: int = 0, **changes) -> window_study.Settings:
    settings = study_settings(arm, seed, "smoke", changes.pop("test_windows", ("own",)))
    training = replace(settings.training, steps=3, learning_rate=1e-3, warmup=1, log_every=1, bf16=False, muon=False)
    return replace(settings, training=training, batch=2, pool=4, grids=(TRAINING_GRID,), crops=1, **changes)


@pytest.fixture(scope="module")
def vae() -> VideoVAE:
    """Of the bundled shape with seeded weights, so that new bundled weights change no trace."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VideoVAE(config.vae_config("small")).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("arms")


@pytest.fixture(autouse=True)
def own_pools(monkeypatch, folder):
    monkeypatch.setattr(window_study, "CHECKOUT", folder)


def run(settings, vae, folder):
    return run_arm(settings, vae, folder, folder / "runs")


def test_trace(vae, folder):
    found = run(small(), vae, folder)
    assert TRACE["recipe"] == arms.RECIPE
    assert [loss for _, loss in found["losses"]] == pytest.approx(TRACE["losses"], rel=1e-3)
    assert [row["psnr"] for row in found["tests"]] == pytest.approx(TRACE["psnr"], rel=1e-3)


def test_arms_of_a_seed_start_alike_and_see_the_same_pairs(vae):
    fixed, adaptive, other = (
        window_study.new_transformer(small(*which)) for which in (("fixed", 0), ("adaptive", 0), ("fixed", 1))
    )
    for name, value in fixed.state_dict().items():
        assert torch.equal(value, adaptive.state_dict()[name])
    assert not torch.equal(fixed.vid_in.proj.weight, other.vid_in.proj.weight)

    (pairs,) = window_study.training_pairs(vae, 4)
    seen = []
    for dit in (fixed, adaptive):
        dit.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        regression_loss([(pairs, 2)], fixed_text(96))(dit, 7, torch.Generator().manual_seed(7))
    assert torch.equal(*seen)


def test_every_seed_has_test_crops_of_its_own(vae):
    first, again, second = (
        window_study.evaluation_cases(vae, (TRAINING_GRID,), 2, seed)[1].original.clone() for seed in (0, 0, 1)
    )
    assert torch.equal(first, again) and not torch.equal(first, second)


def test_trained_with_one_scheme_and_tested_with_another(vae, folder):
    alone = run(small(), vae, folder)["tests"]
    both = run(small(test_windows=("own", "global")), vae, folder)["tests"]
    assert [row["windows"] for row in both] == ["adaptive"] * 3 + ["global"] * 3
    assert both[:3] == alone
    assert all(a["psnr"] != b["psnr"] and b["seam"] is None for a, b in zip(both[:3], both[3:], strict=True))


def test_what_cannot_have_seams_has_none(vae, folder):
    rows = window_study.run_baselines(small(), vae, folder)
    assert [row["seam"] for row in rows["bicubic"]] == pytest.approx([1, 1, 1])
    assert [row["picture"] for row in rows["VAE"]] == ["chelsea", "china", "flower"]
    assert score(rows["bicubic"], "psnr") > score(rows["VAE"], "psnr")  # this VAE was never trained


def test_planted_seams_are_measured_at_the_borders_of_the_scheme(vae):
    settings = small()
    for case in window_study.evaluation_cases(vae, settings.grids, 1, 0):
        places = borders(case.grid, SCHEMES["adaptive"])[1]
        columns = torch.tensor(sorted({8 * at for both in places for at in both}))
        strip = torch.bucketize(torch.arange(case.original.shape[-1]), columns, right=True) % 2
        seams = measure(case.bicubic + 0.05 * strip, case, SCHEMES["adaptive"])["seam"]
        elsewhere = measure(case.bicubic + 0.05 * strip, case, SCHEMES["fixed"])["seam"]
        assert seams > 1.2 > elsewhere


def test_a_planted_error_in_clipped_windows_is_measured(vae):
    for case in window_study.evaluation_cases(vae, (TRAINING_GRID,), 1, 0):
        scheme = SCHEMES["fixed"]  # 13x13: rows 13 and 5, columns 13, 13 and 6
        assert measure(case.bicubic, case, scheme)["clipped"] == pytest.approx(1)
        error = case.bicubic - case.original
        worse = torch.ones(144, 256)
        worse[104:] = worse[:, 208:] = 3
        assert measure(case.original + error * worse, case, scheme)["clipped"] == pytest.approx(3, rel=1e-4)
        everywhere = [measure(case.original + error * worse, case, SCHEMES[name])["clipped"] for name in SCHEMES]
        assert everywhere == [everywhere[0]] * len(SCHEMES)  # one place for all
    whole = window_study.evaluation_cases(vae, ((13, 26),), 1, 0)[0]
    assert measure(whole.bicubic, whole, SCHEMES["fixed"])["clipped"] is None


def test_a_mixed_arm_goes_round_shapes_of_the_same_area(vae, folder):
    settings = study_settings("adaptive mixed", 0, "smoke")
    assert settings.transformer == study_settings("adaptive", 0, "smoke").transformer
    pools = window_study.training_pairs(vae, 10, settings.training_grids)
    shapes = {tuple(pool.low_BCTHW.shape[-2:]) for pool in pools}
    assert len(shapes) == 5 and all(len(pool.low_BCTHW) == 2 for pool in pools)
    areas = [height * width / 4 for height, width in shapes]  # tokens of 2x2 latent pixels
    assert max(areas) / min(areas) < 1.01
    mixed = replace(small("adaptive mixed"), pool=5, batch=1)
    found = run(mixed, vae, folder)
    assert found["losses"] != run(replace(mixed, training_grids=(TRAINING_GRID,)), vae, folder)["losses"]


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("grid", GRIDS)
def test_borders_separate_windows(name, grid):
    for parity, shifted in enumerate((False, True)):
        number = torch.empty(grid, dtype=torch.long)
        for index, (_, rows, columns) in enumerate(partition((1, *grid), SCHEMES[name], shifted)):
            number[rows, columns] = index
        rows, columns = (axis[parity] for axis in borders(grid, SCHEMES[name]))
        assert rows == ((number[1:] != number[:-1]).any(1).nonzero().flatten() + 1).tolist()
        assert columns == ((number[:, 1:] != number[:, :-1]).any(0).nonzero().flatten() + 1).tolist()


def test_the_view_shows_borders_of_fixed_and_adaptive_windows():
    for name in ("fixed", "adaptive"):
        for axis, side in zip(window_study.view_borders(SCHEMES[name]), (128, 160), strict=True):
            assert all(parity and all(0 < at < side for at in parity) for parity in axis)


def test_a_picture_survives_its_text():
    picture = torch.randint(256, (3, 1, 5, 7), generator=torch.Generator().manual_seed(0)) / 255
    assert torch.equal(
        torch.from_numpy(window_study.decode_picture(window_study.encode_picture(picture))).float(),
        picture[:, 0].permute(1, 2, 0),
    )


def test_score_is_the_mean_of_what_was_measured():
    rows = [{"grid": "18x32", "seam": 1.0}, {"grid": "27x48", "seam": 2.0}, {"grid": "27x48", "seam": None}]
    assert score(rows, "seam") == 1.5 and score(rows, "seam", ["27x48"]) == 2
    assert score(rows, "seam", ["36x56"]) != score(rows, "seam", ["36x56"])  # nan


@pytest.mark.parametrize("claim", of_notebook("10"), ids=lambda claim: claim.id)
def test_claims_compare_the_sizes_and_windows_that_they_speak_of(claim):
    """One row for each size and windows; in half of the cases the rows that a claim must not see hold nonsense."""
    landscape, strip, large = "18x32", "12x48", "45x80"
    seen = {
        "odd ratios": {strip},
        "borders rarely seen": {landscape, strip, large},
        "borders never seen": {landscape, strip, large},
    }.get(claim.id, {strip, large})
    meter = claim.meter.removesuffix(" of strips")

    def runs_of(arm, value, spoilt):
        used = "fixed" if claim.id.startswith("borders") else arm.removesuffix(MIXED)
        rows = [
            {"windows": name, "grid": grid, meter: value if grid in seen and name == used else spoilt}
            for name in dict.fromkeys((arm.removesuffix(MIXED), "fixed"))
            for grid in (landscape, strip, large)
        ]
        return [{"tests": rows}, {"tests": rows}]

    for spoilt in (0.0, 99.0):
        runs = {claim.left: runs_of(claim.left, 3.0, spoilt), claim.right: runs_of(claim.right, 1.0, spoilt)}
        assert window_study.difference(claim, runs) == [2.0, 2.0]


def test_unknown_scheme_is_named():
    with pytest.raises(InputError, match="'adaptve': choose one of fixed, adaptive"):
        study_settings("adaptve", 0, "smoke")
