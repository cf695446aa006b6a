"""The table of claims and its verdicts: against known distributions and a second implementation."""

from dataclasses import replace
from math import isnan

import numpy as np
import pytest
from scipy import stats

from seedvr2_lab.lab import claims
from seedvr2_lab.lab.claims import CLAIMS, Claim, as_text, holm, judge, judge_all, of_notebook
from seedvr2_lab.lab.recipe_study import ARMS
from seedvr2_lab.lab.window_study import MIXED, SCHEMES

MORE = Claim("more", "99", "left is more", "a", "b", "psnr", +1)
EQUAL = Claim("equal", "99", "both are equal", "a", "b", "psnr", 0, margin=0.1)


@pytest.mark.parametrize(
    ("claim", "values", "verdict"),
    [
        (MORE, [0.5, 0.6, 0.4, 0.5, 0.55], "held"),
        (MORE, [-0.5, -0.6, -0.4, -0.5, -0.55], "reversed"),
        (MORE, [0.5, -0.6, 0.4, -0.5, 0.1], "undecided"),
        (MORE, [0.5, 0.5], "not testable"),
        (EQUAL, [0.01, -0.02, 0.0, 0.02, 0.01], "held"),
        (EQUAL, [0.3, 0.32, 0.29, 0.31, 0.3], "reversed"),
        (EQUAL, [-0.3, -0.32, -0.29, -0.31, -0.3], "reversed"),
        (EQUAL, [0.3, -0.3, 0.2, -0.2, 0.0], "undecided"),  # too noisy to say that they are equal
        (EQUAL, [0.0] * 5, "held"),
        (MORE, [0.0] * 5, "undecided"),
        (replace(MORE, predicted=-1), [0.0] * 5, "undecided"),
    ],
)
def test_one_claim(claim, values, verdict):
    assert judge(claim, values, "laptop").verdict == verdict
    assert judge(claim, values, "smoke").verdict == "not testable"


def test_p_values_are_those_of_the_paired_t_test():
    random = np.random.default_rng(0)
    for _ in range(20):
        values = random.normal(0.3, 1, 5)
        held, against = claims._p_values(MORE, *claims._moments(values))
        assert min(held, against) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)
        equal, _ = claims._p_values(EQUAL, *claims._moments(values))
        sides = [
            stats.ttest_1samp(values, limit, alternative=side).pvalue
            for limit, side in ((-EQUAL.margin, "greater"), (EQUAL.margin, "less"))
        ]
        assert equal == pytest.approx(max(sides))


def test_a_headline_says_what_is_decided_and_counts_the_rest():
    several = [replace(MORE, id=name, left=name) for name in "abc"]
    values = {"a": [0.5, 0.6, 0.4, 0.5, 0.55], "b": [0.5, -0.6, 0.4, -0.5, 0.1], "c": [-0.5, -0.6, -0.4, -0.5, -0.55]}
    told = claims.headline(judge_all(values, "laptop", several))
    assert told == "psnr, a − b +0.510 held; psnr, c − b -0.510 reversed; 1 of 3 undecided"
    assert claims.headline(judge_all(values, "smoke", several)) == "3 of 3 not testable"
    assert claims.headline([]) == ""


def test_holm_against_its_definition():
    adjusted = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.5})
    assert adjusted == pytest.approx({"a": 0.04, "c": 0.09, "b": 0.09, "d": 0.5})


def test_a_table_of_noise_gives_a_wrong_verdict_in_at_most_one_of_twenty():
    random = np.random.default_rng(0)
    several = [Claim(str(i), "99", "", "a", "b", "psnr", +1) for i in range(15)]
    tables = (judge_all({c.id: random.normal(size=5) for c in several}, "laptop", several) for _ in range(400))
    wrong = sum(any(one.verdict != "undecided" for one in table) for table in tables)
    assert wrong / 400 < 0.05 + 2 * (0.05 * 0.95 / 400) ** 0.5


def test_more_claims_make_each_verdict_harder():
    values = [0.5, 0.7, 0.2, 0.6, 0.4]
    alone = judge(MORE, values, "laptop")
    others = [Claim(str(i), "99", "", "a", "b", "psnr", +1) for i in range(40)]
    random = np.random.default_rng(0)
    noise = {c.id: random.normal(size=5) for c in others}
    together = judge_all({"more": values} | noise, "laptop", [MORE, *others])[0]
    assert alone.verdict == "held" and together.verdict == "undecided" and together.p > alone.p


def test_what_is_not_a_number_cannot_be_tested_and_spoils_no_other():
    others = [Claim(str(i), "99", "", "a", "b", "psnr", +1) for i in range(3)]
    values = {"0": [float("nan"), 1.0, 2.0]} | {str(i): [0.5, 0.6, 0.4, 0.5, 0.55] for i in (1, 2)}
    assert [one.verdict for one in judge_all(values, "laptop", others)] == ["not testable", "held", "held"]


def test_what_was_not_run_is_said():
    found = judge_all({}, "laptop")
    assert {one.verdict for one in found} == {"not run"} and all(isnan(one.p) for one in found)
    assert len(as_text(found).splitlines()) == len(CLAIMS)


def test_the_table_names_arms_that_exist_once():
    assert len({claim.id for claim in CLAIMS}) == len(CLAIMS)
    for number in ("11", "12", "13", "14"):
        assert of_notebook(number)
        for claim in of_notebook(number):
            assert {claim.left, claim.right} <= set(ARMS) and claim.paper and (claim.predicted or claim.margin)
    for claim in of_notebook("10"):
        assert {claim.left.removesuffix(MIXED), claim.right.removesuffix(MIXED)} <= set(SCHEMES)
    assert of_notebook("11", ["rpgan", "apt"]) == [c for c in CLAIMS if c.id.startswith("rpgan")]


def test_reasons_are_about_claims_and_arms_that_exist():
    for reason in claims.REASONS:
        assert {reason.left, reason.right} <= set(ARMS) and reason.text
        look, first = reason.second_look, claims.BY_ID[reason.claim]
        assert (look.meter, look.predicted, look.margin) == (first.meter, first.predicted, first.margin)
        assert {look.left, look.right}.isdisjoint({first.left, first.right})
    assert not set(claims.EXPLORATION_SEEDS) & set(claims.FRESH_SEEDS) and min(claims.EXPLORATION_SEEDS) >= 100


@pytest.mark.parametrize(
    ("claim", "explored", "name"),
    [
        (MORE, {"one": [0.1, 0.2], "two": [0.3, 0.1]}, "two"),
        (Claim("less", "99", "", "a", "b", "psnr", -1), {"one": [-0.1, 0.2], "two": [0.3, 0.1]}, "one"),
        (EQUAL, {"one": [-0.2, -0.1], "two": [0.3, -0.2]}, "two"),
    ],
)
def test_the_likeliest_reason_speaks_most_for_the_claim(claim, explored, name):
    assert claims.likeliest(claim, explored) == name


def test_claims_that_came_close_are_undecided_by_the_correction_alone():
    close, clear, far = (replace(MORE, id=name) for name in ("close", "clear", "far"))
    equal = replace(EQUAL, id="equal")
    values = {
        "close": [0.5, 0.9, 0.2, 0.7, 0.1],
        "clear": [5.0, 5.1, 5.0, 4.9, 5.0],
        "far": [0.5, -0.6, 0.4, -0.5, 0.1],
    }
    values["equal"] = values["close"]
    fillers = {f"filler {n}": replace(MORE, id=f"filler {n}") for n in range(20)}
    values |= dict.fromkeys(fillers, values["far"])
    table = (close, clear, far, equal, *fillers.values())
    judged = judge_all(values, "laptop", table)
    assert claims.missed(judged) == [close]
    assert claims.missed(judge_all(values, "laptop", table[:2])) == []  # a shorter table decides it


@pytest.mark.parametrize("claim", [MORE, replace(MORE, predicted=-1), EQUAL])
def test_seeds_needed_against_the_table_they_are_needed_in(claim):
    random = np.random.default_rng(0)
    for mean in (0.5, 0.0, -1.2):
        values = random.normal(mean, 1, 5)
        needed = claims.seeds_needed(claim, values, 30)

        def decided(n, values=values):
            # n differences with the same mean and standard deviation
            pattern = stats.zscore(np.linspace(-1, 1, n), ddof=1)
            same = values.mean() + values.std(ddof=1) * pattern
            return 30 * min(claims._p_values(claim, *claims._moments(same))) < 0.05

        assert needed is None or (decided(needed) and not any(decided(n) for n in range(3, needed)))
    assert claims.seeds_needed(MORE, [0.5, -0.5, 0.1, -0.1, 0.001], 30) is None
    assert claims.seeds_needed(MORE, [0.5] * 5, 30) == 3
