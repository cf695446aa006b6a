"""Arms: which settings share a file, what a file survives, and when a difference counts."""

import json
import os
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from math import isnan
from multiprocessing import get_context

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ttest_rel

from seedvr2_lab.lab import arms
from seedvr2_lab.lab.arms import Interval, arm_key, interval, joint_verdict, kept, verdict
from seedvr2_lab.training.loop import CHECKPOINT


@dataclass(frozen=True)
class Inner:
    rate: float = 1e-3


@dataclass(frozen=True)
class Outer:
    inner: Inner = Inner()
    grids: tuple = ((18, 32),)


def test_key_follows_every_setting_and_the_recipe(monkeypatch):
    keys = {
        arm_key(each)
        for each in (
            {"arm": Outer(), "vae": "a"},
            {"arm": Outer(), "vae": "b"},
            {"arm": Outer(Inner(2e-3)), "vae": "a"},
            {"arm": replace(Outer(), grids=((18, 32), (27, 48))), "vae": "a"},
        )
    }
    assert len(keys) == 4
    assert arm_key({"vae": "a", "arm": Outer()}) in keys  # the order of the names does not matter
    monkeypatch.setattr(arms, "RECIPE", arms.RECIPE + 1)
    assert arm_key({"arm": Outer(), "vae": "a"}) not in keys


def test_kept_computes_once(tmp_path):
    calls = []

    def compute(checkpoints):
        calls.append(checkpoints)
        checkpoints.mkdir(parents=True)
        return {"psnr": 26.5, "grid": (18, 32)}

    where = {"folder": tmp_path / "arms", "runs": tmp_path / "runs"}
    first, second = (kept({"arm": Outer()}, compute, **where) for _ in range(2))
    assert first == second == {"psnr": 26.5, "grid": [18, 32]}
    assert len(calls) == 1 and not calls[0].exists()
    (file,) = (tmp_path / "arms").iterdir()
    content = json.loads(file.read_text())
    assert content["settings"]["arm"]["inner"]["rate"] == 1e-3 and content["recipe"] == arms.RECIPE
    kept({"arm": Outer(Inner(5.0))}, compute, **where)
    assert len(calls) == 2


def test_a_stopped_run_leaves_its_checkpoint_and_no_result(tmp_path):
    def stopped(checkpoints):
        checkpoints.mkdir(parents=True)
        (checkpoints / CHECKPOINT).touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        kept({"arm": 1}, stopped, tmp_path / "arms", tmp_path / "runs")
    assert not list(tmp_path.glob("arms/*"))
    found = kept(
        {"arm": 1},
        lambda folder: {"resumes": (folder / CHECKPOINT).exists()},
        tmp_path / "arms",
        tmp_path / "runs",
    )
    assert found == {"resumes": True}


def _slow(checkpoints):
    """A training of a moment, in a folder that must be its own."""
    checkpoints.mkdir(parents=True)
    time.sleep(0.5)
    checkpoints.rmdir()
    return {"process": os.getpid()}


def test_two_processes_that_want_the_same_arm_compute_it_once(tmp_path):
    spawn = get_context("spawn")
    with ProcessPoolExecutor(2, spawn, spawn.Barrier(2).wait) as pool:  # both are there before one begins
        asked = [pool.submit(kept, {"arm": 1}, _slow, tmp_path / "arms", tmp_path / "runs") for _ in range(2)]
        first, second = (each.result() for each in asked)
    assert first == second
    assert [path.suffix for path in tmp_path.glob("arms/*")] == [".json"]


def test_a_result_that_is_no_number_is_refused(tmp_path):
    with pytest.raises(ValueError):
        kept({"arm": 1}, lambda _: {"psnr": float("nan")}, tmp_path, tmp_path / "runs")
    assert not list(tmp_path.glob("*.json"))


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=8), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_interval_of_differences_is_that_of_a_paired_t_test(shifts, seed):
    a = np.random.default_rng(seed).normal(size=len(shifts))
    b = a + np.array(shifts) + np.linspace(0, 1, len(shifts))
    found = interval((b - a).tolist())
    low, high = ttest_rel(b, a).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)
    assert found.mean == pytest.approx((b - a).mean())


def test_interval_needs_two_seeds():
    assert interval([0.3])[0] == 0.3 and isnan(interval([0.3]).low) and isnan(interval([]).mean)


@pytest.mark.parametrize(
    ("low", "high", "seeds", "profile", "expected"),
    [
        (0.1, 0.3, 5, "laptop", "held"),
        (-0.3, -0.1, 5, "laptop", "reversed"),
        (-0.1, 0.3, 5, "laptop", "undecided"),
        (0.0, 0.3, 5, "laptop", "undecided"),
        (0.1, 0.3, 2, "laptop", "not testable"),
        (0.1, 0.3, 5, "smoke", "not testable"),
    ],
)
def test_verdict(low, high, seeds, profile, expected):
    difference = Interval((low + high) / 2, low, high, seeds)
    assert verdict(difference, +1, profile) == expected
    mirrored = Interval(-(low + high) / 2, -high, -low, seeds)
    assert verdict(mirrored, -1, profile) == expected


def test_equal_values_of_all_seeds_are_no_difference():
    assert verdict(interval([0.0] * 5), 1, "laptop") == "undecided"
    assert verdict(interval([float("nan")] * 5), 1, "laptop") == "undecided"


def test_joint_verdict():
    assert joint_verdict(["held", "held"]) == "held"
    assert joint_verdict(["held", "undecided"]) == "undecided"
    assert joint_verdict(["held", "reversed"]) == "undecided"
    assert joint_verdict([]) == "not testable"
