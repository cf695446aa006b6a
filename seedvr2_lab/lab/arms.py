"""Arms: what one configuration gave with one seed, kept in a small file, and how arms are compared.

A file is named after a hash of everything that the numbers in it depend on. Whoever asks for them again, in another
notebook or with more seeds, finds them; whoever changes a setting gets a new file. The hash cannot see a change of the
code itself: `RECIPE` stands for that, and a stored trace of losses fails a test when it was forgotten.
"""

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from math import nan, sqrt
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from seedvr2_lab.console import make_once, write_whole

RECIPE = 1  # raise it whenever the same settings would give other numbers than before
CHECKOUT = Path(__file__).parents[2]
SEEDS_FOR_A_VERDICT = 3


def default_folder() -> Path:
    """Where arms are kept: beside the reports of a checkout, else below the current folder."""
    notebooks = CHECKOUT / "notebooks"
    return (notebooks if notebooks.is_dir() else Path.cwd()) / "reports" / "arms"


def arm_key(settings: dict[str, Any]) -> str:
    """The name of the file for these settings, which may hold dataclasses: 16 hexadecimal digits."""
    text = json.dumps({"recipe": RECIPE, "settings": settings}, default=dataclasses.asdict, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def kept(
    settings: dict[str, Any],
    compute: Callable[[Path], dict[str, Any]],
    folder: Path | None = None,
    runs: Path | None = None,
) -> dict[str, Any]:
    """What `compute` returns for these settings, from its file if there is one; whoever asks while another process is
    computing it waits for that.

    Args:
        settings: all that the result depends on; plain values and dataclasses.
        compute: called with a folder of its own for checkpoints, so that a stopped run goes on; returns plain values.
        folder: of the files; `default_folder()` if None.
        runs: where the checkpoints lie meanwhile; `runs/arms` of the checkout if None.
    """
    key = arm_key(settings)
    path = (folder or default_folder()) / f"{key}.json"
    checkpoints = (runs or CHECKOUT / "runs" / "arms") / key

    def make() -> None:
        content = {"recipe": RECIPE, "settings": settings, "result": compute(checkpoints)}
        text = json.dumps(content, default=dataclasses.asdict, indent=1, allow_nan=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
        shutil.rmtree(checkpoints, ignore_errors=True)

    make_once(path, checkpoints.with_name(f"{key}.lock"), make)
    return json.loads(path.read_text(encoding="utf-8"))["result"]


class Interval(NamedTuple):
    """A mean over seeds with its 95 % interval by Student's t; nan where there are too few seeds."""

    mean: float
    low: float
    high: float
    seeds: int

    def __str__(self) -> str:
        limits = f" [{self.low:+.3f}, {self.high:+.3f}]" if self.seeds > 1 else ""
        return f"{self.mean:+.3f}{limits}, {self.seeds} seed{'s' if self.seeds != 1 else ''}"


def interval(values: Sequence[float]) -> Interval:
    """The interval of one number per seed. For a paired comparison give it the differences, seed by seed."""
    n = len(values)
    mean = float(np.mean(values)) if n else nan
    if n < 2:
        return Interval(mean, nan, nan, n)
    from scipy.stats import t

    half = float(t.ppf(0.975, n - 1)) * float(np.std(values, ddof=1)) / sqrt(n)
    return Interval(mean, mean - half, mean + half, n)


def verdict(difference: Interval, predicted: int, profile: str) -> str:
    """Whether a predicted difference showed: "held", "reversed", "undecided" or "not testable".

    Args:
        difference: of one arm to another, over seeds.
        predicted: +1 or -1, the sign that was expected.
        profile: the smoke profile trains too little to test anything, and so do fewer than three seeds.
    """
    if profile == "smoke" or difference.seeds < SEEDS_FOR_A_VERDICT:
        return "not testable"
    if difference.low * predicted > 0 and difference.high * predicted > 0:
        return "held"
    if difference.low * predicted < 0 and difference.high * predicted < 0:
        return "reversed"
    return "undecided"


def joint_verdict(verdicts: Sequence[str]) -> str:
    """Of a prediction with several parts: what all parts say, else "undecided"; without parts "not testable"."""
    if not verdicts:
        return "not testable"
    return verdicts[0] if len(set(verdicts)) == 1 else "undecided"
