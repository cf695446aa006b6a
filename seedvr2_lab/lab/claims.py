"""What the paper claims, as numbers that can be measured here, and the rule by which a verdict is reached.

Most of the table was written before the first runs; its history is that of this file. A claim compares two arms in one
meter; five seeds give five paired differences, of figures over all test crops of a seed. `judge` looks at one claim
alone, `judge_all` corrects for their number (Holm). Intervals speak of seeds, not of pictures: these are few and stay
the same.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import nan, sqrt
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from seedvr2_lab.lab.arms import SEEDS_FOR_A_VERDICT, Interval, interval

LEVEL = 0.05


@dataclass(frozen=True)
class Claim:
    """A statement about left - right.

    Attributes:
        notebook: the number of the notebook that measures it.
        paper: the statement in our words, and where it stands.
        predicted: the sign of the difference; 0 if the two are said to be equal, within `margin`.
        frames: of the test clips.
        stands_in: the meter stands in for one that needs weights from elsewhere (LPIPS, DISTS).
    """

    id: str
    notebook: str
    paper: str
    left: str
    right: str
    meter: str
    predicted: int
    margin: float = 0.0
    frames: int = 1
    stands_in: bool = False

    @property
    def measured(self) -> str:
        return f"{self.meter}, {self.left} − {self.right}"

    @property
    def expected(self) -> str:
        return f"within ±{self.margin:g}" if not self.predicted else "> 0" if self.predicted > 0 else "< 0"


EQUAL_PSNR = 0.1  # dB

CLAIMS = (
    Claim("seams", "10", "adaptive windows leave weaker seams beyond the training size (Fig. 4)",
          "adaptive", "fixed", "seam", -1),
    Claim("sizes", "10", "and a better picture there (section 3.2)", "adaptive", "fixed", "psnr", +1),
    Claim("odd ratios", "10", "... at aspect ratios that training never showed, too (section 3.2)",
          "adaptive", "fixed", "psnr of strips", +1),
    Claim("borders rarely seen", "10", "seams come of borders that training seldom shows (section 3.2; tested with "
          "windows of 13, trained with 26 instead)", "fixed26", "fixed", "seam", +1),
    Claim("borders never seen", "10", "... or never (trained with windows of 32)",
          "fixed32", "fixed", "seam", +1),
    Claim("clipped windows", "10", "where the picture's edge clips fixed windows, they restore worse (section 3.2)",
          "fixed", "adaptive", "clipped", +1),
    Claim("mixed shapes", "10", "training on several shapes makes rotary positions stand new ones (section 3.2: sizes)",
          "adaptive mixed", "adaptive", "psnr", +1),
    Claim("many steps, texture", "03", "many steps draw what one step of the same model blurs (section 1)",
          "teacher@64", "teacher@1", "texture", -1, stands_in=True),
    Claim("one step enough", "03", "one step after distillation is as faithful as 64 (section 3.3; ours: more so)",
          "distilled", "teacher@64", "psnr", +1),
    Claim("rpgan, texture", "11", "RpGAN with R2 instead of the non-saturating loss: better LPIPS, DISTS (Table 3)",
          "rpgan", "apt", "texture", -1, stands_in=True),
    Claim("rpgan, psnr", "11", "... at equal PSNR (22.55 and 22.56 dB)", "rpgan", "apt", "psnr", 0, EQUAL_PSNR),
    Claim("l1, psnr", "11", "adding L1 raises PSNR (by 0.35 dB)", "+l1", "rpgan", "psnr", +1),
    Claim("l1, texture", "11", "... and lowers LPIPS and DISTS", "+l1", "rpgan", "texture", -1, stands_in=True),
    Claim("fm, texture", "11", "feature matching lowers LPIPS and DISTS", "+fm", "+l1", "texture", -1, stands_in=True),
    Claim("fm, psnr", "11", "... at equal PSNR (22.91 and 22.91 dB)", "+fm", "+l1", "psnr", 0, EQUAL_PSNR),
    Claim("last block", "11", "features of blocks 16, 26 and 36 of 36 (section 3.3; ours: better than the last alone)",
          "+fm", "last block", "texture", -1, stands_in=True),
    Claim("early blocks", "11", "... and than the first ones alone",
          "+fm", "early blocks", "texture", -1, stands_in=True),
    Claim("start, psnr", "11", "starting from the distilled model raises PSNR (by 1.05 dB)", "full", "+fm", "psnr", +1),
    Claim("start, texture", "11", "... and makes DISTS slightly worse (0.092 to 0.097; LPIPS improves, 0.244 to 0.227)",
          "full", "+fm", "texture", +1, stands_in=True),
    Claim("codec, psnr", "11", "the whole recipe against the first column, where no VAE decides (ours)",
          "full lossless", "apt lossless", "psnr", +1),
    Claim("codec, texture", "11", "... and in looks",
          "full lossless", "apt lossless", "texture", -1, stands_in=True),
    Claim("start, equal compute", "12", "a distilled start raises PSNR, one made here, its cost given to the other arm",
          "both", "+fm longer", "psnr", +1),
    Claim("distilled alone", "12", "distillation alone is worse than with adversarial training (Table 5; ours: "
          "mostly a regression in its last halving)",
          "final", "distilled", "texture", -1, stands_in=True),
    Claim("consistency", "12", "progressive distillation is the better way to one step (section 3.3 chooses it)",
          "progressive", "consistency", "texture", -1, stands_in=True),
    Claim("long chain", "12", "from 64 steps rather than from few (section 3.3 has six halvings)",
          "progressive", "short chain", "texture", -1, stands_in=True),
    Claim("size distillation", "12", "a smaller model learns from a larger one (section 3.3: 3B from 7B), ours: better "
          "than alone", "smaller", "smaller alone", "psnr", +1),
    Claim("weights, texture", "13", "weights of 0.1 instead of 1 for L1 and matching look better (section 4.1)",
          "final", "full", "texture", -1, stands_in=True),
    Claim("weights, psnr", "13", "... and cost fidelity", "final", "full", "psnr", -1),
    Claim("growing, flicker", "14", "growing clips after pictures (section 3.3): no more flicker than clips throughout",
          "growing", "clips", "flicker", 0, margin=0.005, frames=5),
    Claim("growing, texture", "14", "... and better single frames", "growing", "clips", "texture", -1, stands_in=True),
)  # fmt: skip


@dataclass(frozen=True)
class Reason:
    """What may have hidden or reversed a claim's effect, and two arms that would show the effect without it."""

    claim: str
    text: str
    left: str
    right: str

    @property
    def second_look(self) -> Claim:
        """The same claim about these arms; it takes no other place in the table."""
        return replace(BY_ID[self.claim], notebook="16", left=self.left, right=self.right)


BY_ID = {claim.id: claim for claim in CLAIMS}
EXPLORATION_SEEDS, FRESH_SEEDS = (100, 101, 102), (200, 201, 202, 203, 204)

# The two likeliest for each claim on the first four columns of Table 3 that its first look left undecided. There arms
# without fidelity terms made far more fine detail than the originals have, by other amounts in every seed.
REASONS = tuple(
    Reason(claim, text, f"{BY_ID[claim].left} {which}", f"{BY_ID[claim].right} {which}")
    for claim in ("rpgan, texture", "rpgan, psnr", "l1, texture", "fm, texture", "fm, psnr")
    for which, text in (
        (
            "quiet",
            "the start has noise as strong as the latents, and so short a training only spreads it: take a quarter",
        ),
        ("three times", "an arm is the beginning of a training, where all losses overshoot: take 3 times its steps"),
    )
)

UNTESTABLE = {
    "mixed sizes": "training on mixed sizes makes rotary positions robust (section 3.2); the training crops of "
    "notebook 10 differ in shape, not in area",
    "collapse": "training without R2 collapses (section 3.3). Collapse would be a mean logit gap below 1e-4 or above "
    "20 over 100 steps, looked for in runs 5 times as long as the arms'; notebook 04 tests it in the plane",
    "growing to 100 frames": "the paper's clips grow to about 100 frames; those of notebook 14 have 5",
}


class Judged(NamedTuple):
    """A claim with its numbers; `p` is Holm's adjusted p-value of the verdict, nan where there is none."""

    claim: Claim
    found: Interval
    p: float
    verdict: str  # held, reversed, undecided, not testable, not run


def of_notebook(number: str, arms: Sequence[str] | None = None) -> list[Claim]:
    """The claims that a notebook measures; with `arms` those whose two arms are among them."""
    return [c for c in CLAIMS if c.notebook == number and (arms is None or {c.left, c.right} <= set(arms))]


def judge(claim: Claim, values: Sequence[float], profile: str) -> Judged:
    """One claim alone: its differences, one for each seed."""
    return judge_all({claim.id: values}, profile, (claim,))[0]


def judge_all(values: Mapping[str, Sequence[float]], profile: str, claims: Sequence[Claim] = CLAIMS) -> list[Judged]:
    """All claims at once: a verdict needs a p-value below 0.05 after Holm's correction for those that could be tested.

    Args:
        values: by the id of the claim, one difference for each seed. A claim that is missing was not run; one with a
            value that is not a number cannot be tested.
    """
    testable = {
        claim.id: _p_values(claim, *_moments(values[claim.id]))
        for claim in claims
        if profile != "smoke"
        and len(values.get(claim.id, ())) >= SEEDS_FOR_A_VERDICT
        and np.isfinite(values[claim.id]).all()
    }
    decisive = holm({name: min(sides) for name, sides in testable.items()})
    found = []
    for claim in claims:
        if claim.id not in values:
            found.append(Judged(claim, Interval(nan, nan, nan, 0), nan, "not run"))
        elif claim.id not in testable:
            found.append(Judged(claim, interval(values[claim.id]), nan, "not testable"))
        else:
            held, against = testable[claim.id]
            word = "undecided" if decisive[claim.id] >= LEVEL else "held" if held < against else "reversed"
            found.append(Judged(claim, interval(values[claim.id]), decisive[claim.id], word))
    return found


def tested(judged: Sequence[Judged]) -> list[Judged]:
    """Those that could be tested."""
    return [one for one in judged if one.verdict not in ("not run", "not testable")]


def missed(judged: Sequence[Judged]) -> list[Claim]:
    """Claims of a direction that are undecided though the 95 % interval of their difference excludes zero."""
    undecided = [one for one in judged if one.verdict == "undecided" and one.claim.predicted]
    return [one.claim for one in undecided if one.found.low * one.found.high > 0]


def seeds_needed(claim: Claim, values: Sequence[float], tests: int, most: int = 1000) -> int | None:
    """With how many seeds differences of this mean and spread would decide a claim as the first of a table of so many.

    For a claim of a direction this is its p-value in another unit, no new evidence. None: with more than `most`.
    """
    mean, spread, _ = _moments(values)
    numbers = range(SEEDS_FOR_A_VERDICT, most + 1)
    return next((n for n in numbers if tests * min(_p_values(claim, mean, spread, n)) < LEVEL), None)


def likeliest(claim: Claim, explored: Mapping[str, Sequence[float]]) -> str:
    """The reason whose arms speak most for a claim: by its name, one difference for each exploration seed -> a name."""

    def against(name: str) -> float:
        mean = float(np.mean(explored[name]))
        return -mean * claim.predicted if claim.predicted else abs(mean)

    return min(explored, key=against)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p-values: the chance of one wrong verdict in the whole table stays below the level."""
    adjusted, highest = {}, 0.0
    for place, (name, p) in enumerate(sorted(p_values.items(), key=lambda item: item[1])):
        highest = max(highest, min(1.0, (len(p_values) - place) * p))
        adjusted[name] = highest
    return adjusted


def _moments(values: Sequence[float]) -> tuple[float, float, int]:
    """Mean, standard deviation and number of differences."""
    return float(np.mean(values)), float(np.std(values, ddof=1)), len(values)


def _p_values(claim: Claim, mean: float, spread: float, seeds: int) -> tuple[float, float]:
    """For the claim and for its reverse, by Student's t: the smaller one decides. Both are two-sided for a direction.

    Equality is held if the mean is below the upper margin and above the lower one (two one-sided tests), reversed if it
    is beyond one of them.
    """
    if claim.predicted:
        p = _above(0.0, mean, spread, seeds)
        sides = (p, 1 - p) if claim.predicted > 0 else (1 - p, p)
        return min(1.0, 2 * sides[0]), min(1.0, 2 * sides[1])
    above_low, above_high = (_above(limit, mean, spread, seeds) for limit in (-claim.margin, claim.margin))
    return max(above_low, 1 - above_high), min(1.0, 2 * min(1 - above_low, above_high))


def _above(limit: float, mean: float, spread: float, seeds: int) -> float:
    """The one-sided p-value against "the mean is at most the limit"."""
    from scipy.stats import t

    distance = mean - limit
    if not spread:
        return 0.5 if not distance else float(distance < 0)
    return float(t.sf(distance / spread * sqrt(seeds), seeds - 1))


class Report(NamedTuple):
    """What a notebook found, from the results.json of its report."""

    notebook: str
    folder: Path
    results: dict[str, Any]

    @property
    def values(self) -> dict[str, list[float]]:
        """By the id of each claim that it measured: one difference for each seed."""
        claims = (self.results["metrics"] or {}).get("claims", {})
        return {name: [nan if value is None else value for value in found] for name, found in claims.items()}


def finished_reports(reports: Path, profile: str) -> list[Report]:
    """The finished reports of a profile by notebook: those of this checkout, else the published ones."""
    found = {}
    for folder in [*reports.glob(f"published/[0-9]*__{profile}"), *reports.glob(f"[0-9]*__{profile}")]:
        path = folder / "results.json"
        results = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if results.get("state") == "ok":
            found[results["notebook"]] = Report(results["notebook"], folder, results)
    return [found[name] for name in sorted(found)]


def headline(judged: Sequence[Judged]) -> str:
    """One line: what is decided, with its numbers, and how many of the others there are."""
    decided = [one for one in judged if one.verdict in ("held", "reversed")]
    words = [f"{one.claim.measured} {one.found.mean:+.3f} {one.verdict}" for one in decided]
    others = Counter(one.verdict for one in judged if one not in decided)
    return "; ".join([*words, *(f"{count} of {len(judged)} {word}" for word, count in others.items())])


def as_text(judged: Sequence[Judged]) -> str:
    """A line for each claim: verdict, what was measured, mean with its interval, what was expected."""
    return "\n".join(
        f"{one.verdict + (' (stand-in)' if one.claim.stands_in else ''):24} {one.claim.measured:42} "
        f"{'' if one.verdict == 'not run' else one.found}  (expected {one.claim.expected})"
        for one in judged
    )
