"""A claim's difference with other seeds or other arms than its first look took, of notebooks 16 and 17."""

from collections.abc import Iterable, Sequence
from typing import Any

from seedvr2_lab.console import InputError
from seedvr2_lab.lab import recipe_study, step_study, window_study
from seedvr2_lab.lab.claims import EXPLORATION_SEEDS, Claim, Judged, Report
from seedvr2_lab.media.clips import Part
from seedvr2_lab.model.vae import VideoVAE
from seedvr2_lab.model.weights import load_generator
from seedvr2_lab.training.validation import Crops, crops_of


def check_fresh(seeds: Sequence[int], reports: Iterable[Report], explored: Iterable[int] = EXPLORATION_SEEDS) -> None:
    """Whether seeds are fresh for the claims of these reports.

    Raises:
        InputError: a report has used one of them, or reasons were explored with it.
    """
    used = {*explored, *(seed for report in reports for seed in report.results["config"]["seeds"])}
    if used & set(seeds):
        raise InputError(f"seeds {sorted(used & set(seeds))} were looked at before: give others")


def as_metrics(judged: Iterable[Judged]) -> dict[str, dict[str, Any]]:
    """By claim, what results.json keeps of a second look and notebook 90 reads."""
    return {
        each.claim.id: {"arms": [each.claim.left, each.claim.right], "p": each.p, "verdict": each.verdict}
        | each.found._asdict()
        for each in judged
    }


def differences(
    claim: Claim, seeds: Sequence[int], profile: str, vae: VideoVAE, part: Part = "evaluation"
) -> list[float]:
    """Left arm - right arm in the claim's meter, one number for each seed; arms are kept, as those of the first look.

    Args:
        part: of the pictures that arms are tested on; claims of notebook 10 know "evaluation" alone.
    """
    of_study = {"03": _steps, "10": _windows}.get(claim.notebook, _recipe)
    return of_study(claim, seeds, profile, vae, part)


def _steps(claim: Claim, seeds: Sequence[int], profile: str, vae: VideoVAE, part: Part) -> list[float]:
    """Bundled models with so many steps ("teacher@64"); nothing is trained, and nothing kept."""
    count, found = step_study.crops_a_seed(profile), []
    for seed in seeds:
        crops = crops_of(part, vae, recipe_study.PRESETS, claim.frames, count, seed)
        left, right = (_restored(arm, vae, crops).figures[claim.meter] for arm in (claim.left, claim.right))
        found.append(left - right)
    return found


def _restored(arm: str, vae: VideoVAE, crops: Crops) -> step_study.Restored:
    name, _, steps = arm.partition("@")
    return step_study.restored(load_generator(name), vae, crops, int(steps or 1))


def _windows(claim: Claim, seeds: Sequence[int], profile: str, vae: VideoVAE, part: Part) -> list[float]:
    if part != "evaluation":
        raise ValueError("the window study tests on the evaluation pictures alone")
    runs = {}
    for arm in (claim.left, claim.right):
        # Some claims compare arms with the windows of `fixed`.
        settings = [window_study.study_settings(arm, seed, profile, ("own", "fixed")) for seed in seeds]
        runs[arm] = [window_study.run_arm(each, vae) for each in settings]
    return window_study.difference(claim, runs)


def _recipe(claim: Claim, seeds: Sequence[int], profile: str, vae: VideoVAE, part: Part) -> list[float]:
    runs = {}
    for arm in (claim.left, claim.right):
        settings = [recipe_study.study_settings(arm, seed, profile) for seed in seeds]
        runs[arm] = [recipe_study.run_arm(each, vae, part=part) for each in settings]
    return recipe_study.difference(runs, claim.left, claim.right, claim.meter, claim.frames)
