"""The recipe study: one-step restorers made in different ways from the same bundled models, of notebooks 11 to 16.

An arm is a way of making one; `ARMS` names them. With one seed all arms are tested on the same crops; which of them see
the same pairs and begin with the same discriminator, notebooks 11 to 14 say. Seeds draw other pairs, discriminators and
crops; the teacher and the distilled model that arms start from are the bundled ones, but for the arms without a VAE.
"""

import base64
import copy
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from PIL import Image

from seedvr2_lab.config import transformer_config
from seedvr2_lab.console import InputError
from seedvr2_lab.lab.arms import CHECKOUT, kept
from seedvr2_lab.lab.lossless import PixelUnshuffle, lossless_models, lossless_settings
from seedvr2_lab.lab.window_study import encode_picture
from seedvr2_lab.media.clips import Part
from seedvr2_lab.model.discriminator import Discriminator
from seedvr2_lab.model.dit import DiT
from seedvr2_lab.model.vae import VideoVAE
from seedvr2_lab.model.weights import Generator, fixed_text, load_generator, weights_hash
from seedvr2_lab.training import losses
from seedvr2_lab.training.adversarial import Feed, adversarial_players, growing, mixed
from seedvr2_lab.training.distill import Teacher, consistency_loss, halving_loss, matching_loss, teacher_of
from seedvr2_lab.training.loop import TrainConfig, last_rows, read_log, train, train_players
from seedvr2_lab.training.losses import AdversarialLosses
from seedvr2_lab.training.pairs import Pairs, encode_pairs
from seedvr2_lab.training.schedule import ADVERSARIAL, DISTILL, LAPTOP
from seedvr2_lab.training.validation import CROP, METERS, RATIOS, Crops, crops_of, mean_figures

Phases = tuple[tuple[float, tuple[tuple[int, int], ...]], ...]  # from this share of the steps on: (clips, frames), ...

PRESETS = ("light", "paper")
LOSSLESS = "lossless "  # begins the name of a start without a VAE
QUIET = 0.25
SMALLER = "study"  # a size of config.TRANSFORMERS
LONGER = 2.0  # 80 steps of halving take about as long as 80 adversarial ones: 81 to 137 s of a core, and 107 to 124 s
VIEWS = 3  # test crops that are kept as pictures
PICTURES: Phases = ((0.0, ((4, 1),)),)
# As many latent frames a step everywhere: a clip of 5 frames has 3, a picture 1.
GROWING: Phases = ((0.0, ((3, 1),)), (0.5, ((1, 5),)))
CLIPS: Phases = ((0.0, ((1, 5),)),)


@dataclass(frozen=True)
class Arm:
    """How a one-step restorer is made.

    Attributes:
        way: "as it is" takes the start with one step and trains nothing; "both" halves steps first, then meets the
            discriminator; "smaller" and "smaller alone" train a transformer of the size `SMALLER` from nothing, by what
            the start restores or by the original.
        start: a bundled model, or a "lossless" one (see lab/lossless.py), which takes the VAE out of the game; the
            "quiet teacher" begins with `QUIET` of the noise.
        losses: of the adversarial ways.
        blocks: of the discriminator, counted from 1: where its heads read and features are matched; None: the paper's.
        phases: what adversarial steps learn from.
        chain: steps of the teacher that distillation starts with.
        effort: times the steps of the profile.
    """

    way: Literal["as it is", "adversarial", "progressive", "consistency", "both", "smaller", "smaller alone"]
    start: Literal["teacher", "distilled", "lossless teacher", "lossless distilled", "quiet teacher"] = "teacher"
    losses: AdversarialLosses | None = None
    blocks: tuple[int, ...] | None = None
    phases: Phases = PICTURES
    chain: int = 64
    effort: float = 1.0


def _adversarial(name: str, **changes) -> Arm:
    """An arm of Table 3, with the weights of this latent space; `fidelity`: the paper's weight of L1 and matching."""
    found = LAPTOP.losses(name)
    if (fidelity := changes.pop("fidelity", None)) is not None:
        found = replace(found, l1=fidelity * LAPTOP.l1, feature_matching=fidelity)
    start = "distilled" if found.start == "progressive" else "teacher"
    return replace(Arm("adversarial", start, found), **changes)


ARMS = {
    "teacher": Arm("as it is"),
    "distilled": Arm("as it is", "distilled"),
    # Table 3, column by column, and the released weights.
    **{name: _adversarial(name) for name in losses.ARMS},
    # The first and the last column without a VAE, and what they begin as.
    "apt lossless": _adversarial("apt", start="lossless teacher"),
    "full lossless": _adversarial("full", start="lossless distilled"),
    "teacher lossless": Arm("as it is", "lossless teacher"),
    "distilled lossless": Arm("as it is", "lossless distilled"),
    # What may hide the differences between them (notebook 16).
    **{f"{name} quiet": _adversarial(name, start="quiet teacher") for name in ("apt", "rpgan", "+l1", "+fm")},
    **{f"{name} three times": _adversarial(name, effort=3) for name in ("apt", "rpgan", "+l1", "+fm")},
    # What a discriminator looks at, of 8 blocks; the paper's 16, 26 and 36 of 36 are 4, 6 and 8 here.
    "early blocks": _adversarial("+fm", blocks=(1, 2, 3)),
    "last block": _adversarial("+fm", blocks=(8,)),
    # Between `full` and `final`.
    "weights 0.3": _adversarial("full", fidelity=0.3),
    "weights 0": _adversarial("full", fidelity=0.0),
    # 64 steps to 1, with as many training steps in all.
    "progressive": Arm("progressive"),
    "short chain": Arm("progressive", chain=8),
    "consistency": Arm("consistency"),
    # The last column of Table 3 from a start that is made here, and the one before it with the time of that on top.
    "both": _adversarial("full", way="both", start="teacher"),
    "+fm longer": _adversarial("+fm", effort=LONGER),
    # A student of half the weights, with its large teacher and without.
    "smaller": Arm("smaller", "distilled", effort=4),
    "smaller alone": Arm("smaller alone", "distilled", effort=4),
    "growing": _adversarial("final", phases=GROWING),
    "clips": _adversarial("final", phases=CLIPS),
}


@dataclass(frozen=True)
class Work:
    """How much a profile does for an arm and seed."""

    steps: int
    pools: tuple[tuple[int, int], ...]  # frames of a clip: training pairs
    crop: int  # pixels, height and width of them
    tests: tuple[tuple[int, int], ...]  # frames of a clip: test crops
    distilled: int = 16  # pairs of a distillation step


WORK = {
    "smoke": Work(2, ((1, 8), (5, 4)), 64, ((1, 3), (5, 1)), distilled=2),
    "laptop": Work(80, ((1, 1024), (5, 256)), 128, ((1, 24), (5, 8))),
    "gpu": Work(5000, ((1, 16384), (5, 4096)), 128, ((1, 96), (5, 32))),
}


@dataclass(frozen=True)
class Settings:
    """One arm with one seed, resolved: together with the bundled models, all that its numbers depend on."""

    arm: Arm
    work: Work
    training: TrainConfig
    device: str = "cpu"


def study_settings(arm: str, seed: int, profile: str) -> Settings:
    """The settings of an arm, a name of ARMS, in a profile."""
    if arm not in ARMS:
        raise InputError(f"there is no arm '{arm}': choose one of {', '.join(ARMS)}")
    if profile not in WORK:
        raise InputError(f"there is no profile '{profile}': choose one of {', '.join(WORK)}")
    chosen, work = ARMS[arm], WORK[profile]
    training = _training(WAYS[chosen.way].base, max(2, round(chosen.effort * work.steps)), seed)
    return Settings(chosen, work, training, "cuda" if profile == "gpu" and torch.cuda.is_available() else "cpu")


def _training(base: TrainConfig, steps: int, seed: int) -> TrainConfig:
    return replace(base, steps=steps, seed=seed, warmup=min(base.warmup, steps // 5), log_every=max(1, steps // 20))


def described(settings: Settings) -> str:
    """What an arm begins as and how it is trained from there, for a line of text."""
    way, steps = settings.arm.way, settings.training.steps
    if way == "as it is":
        return f"{settings.arm.start}, not trained"
    halved = _halving_steps(settings) * _halvings(settings.arm)
    trained = {"progressive": f"{halved}", "both": f"{halved} + {steps}"}.get(way, f"{steps}")
    return f"{way} from {settings.arm.start}, {trained} steps"


def tests_described(settings: Settings) -> str:
    """What arms are tested on, for a line of text."""
    tests = ", ".join(f"{count} of {frames} frame{'s' * (frames > 1)}" for frames, count in settings.work.tests)
    return f"test crops of {CROP} pixels: {tests}; of {' and '.join(RATIOS)} the median, of others the mean"


def run_arm(
    settings: Settings,
    vae: VideoVAE,
    folder: Path | None = None,
    runs: Path | None = None,
    part: Part = "evaluation",
) -> dict[str, Any]:
    """Make and test an arm, or read what an earlier run found. `folder` and `runs` as in `arms.kept`.

    Args:
        part: of the pictures, for the test crops; whatever chooses something takes "validation".

    Returns:
        "figures": by the number of frames, meter -> its value over the test crops (`mean_figures`); "log": rows of the
        training log; "seconds" it took; "views": the first test pictures restored, PNGs in base64.
    """

    def compute(checkpoints: Path) -> dict[str, Any]:
        start, taught, codec = _models(settings, vae)
        log = []
        made = start._replace(steps=1, guidance=1.0)
        if settings.arm.way != "as it is":
            made, log = WAYS[settings.arm.way].make(settings, made, taught, codec, checkpoints)
        found, views = {}, []
        for frames, _ in settings.work.tests:
            crops = test_crops(codec, settings, frames, part)
            clips = restored(made, codec, crops)
            found[str(frames)] = figures_of(clips, crops)
            if frames == 1:
                views = [encode_picture(clip) for clip in clips[:VIEWS]]
        return {"figures": found, "log": log, "seconds": sum(row["seconds"] for row in last_rows(log)), "views": views}

    return kept(_key(settings, vae, part), compute, folder, runs)


def _key(settings: Settings, vae: VideoVAE, part: Part) -> dict[str, Any]:
    """All that the numbers of an arm depend on."""
    arm, key = settings.arm, {"study": "recipe", "arm": settings, "presets": PRESETS}
    if arm.start.startswith(LOSSLESS):
        key["lossless"] = lossless_settings(settings.work.steps)
    else:
        starts = {"start": arm.start.removeprefix("quiet "), "teacher": "teacher"}
        key |= {what: weights_hash(load_generator(name).dit) for what, name in starts.items()}
        key["vae"] = weights_hash(vae)
    if arm.start.startswith("quiet "):
        key["noise"] = QUIET
    if arm.way == "both":
        key["halvings"] = _before(settings).training
    if arm.way.startswith("smaller"):
        key["student"] = transformer_config(SMALLER)
    return key if part == "evaluation" else key | {"part": part}


def _models(settings: Settings, vae: VideoVAE) -> tuple[Generator, Generator, VideoVAE | PixelUnshuffle]:
    """What the arm begins as, what its discriminator begins as, and the codec of both."""
    name = settings.arm.start
    if name == "quiet teacher":
        return load_generator("teacher")._replace(noise_scale=QUIET), load_generator("teacher"), vae
    if not name.startswith(LOSSLESS):
        return load_generator(name), load_generator("teacher"), vae
    codec = _pixel_unshuffle()
    batches = [(training_pairs(codec, settings.work, 1), settings.work.distilled)]
    made = lossless_models(batches, settings.work.steps, settings.device, CHECKOUT / "runs" / "lossless")
    return made[name.removeprefix(LOSSLESS)], made["teacher"], codec


_pixel_unshuffle = lru_cache(maxsize=1)(PixelUnshuffle)  # one object, that pools and crops are kept by


def run_bounds(settings: Settings, vae: VideoVAE, folder: Path | None = None) -> dict[str, dict[str, Any]]:
    """Figures of what needs no training, on the same crops: the "bicubic" input and the original through the "VAE"."""

    def compute(_: Path) -> dict[str, Any]:
        found = {"bicubic": {}, "VAE": {}}
        for frames, _ in settings.work.tests:
            crops = test_crops(vae, settings, frames)
            for name, latent in (("bicubic", crops.pairs.low_BCTHW), ("VAE", crops.pairs.high_BCTHW)):
                found[name][str(frames)] = figures_of(vae.to_clips(latent).clamp(0, 1), crops)
        return found

    tested = {"tests": settings.work.tests, "seed": settings.training.seed, "presets": PRESETS}
    return kept({"study": "recipe, bounds", **tested, "vae": weights_hash(vae)}, compute, folder)


def adversarial(
    settings: Settings, start: Generator, taught: Generator, vae: VideoVAE, checkpoints: Path
) -> tuple[Generator, list[dict]]:
    """A generator trained against a discriminator that begins as the teacher."""
    arm, config = settings.arm, settings.training
    made = start._replace(dit=copy.deepcopy(start.dit).requires_grad_(True), negative_text=None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        discriminator = Discriminator.from_teacher(taught.dit, arm.blocks)
    text = made.text.to(settings.device)
    pairs = feed(settings, vae)
    players = adversarial_players(made.dit, discriminator, pairs, text, arm.losses, made.noise_scale)
    trained = train_players(players, config, checkpoints, settings.device)["generator"].cpu().eval()
    return made._replace(dit=trained.requires_grad_(False)), read_log(checkpoints / "log.jsonl")


def distilled(
    settings: Settings, start: Generator, taught: Generator, vae: VideoVAE, checkpoints: Path
) -> tuple[Generator, list[dict]]:
    """The teacher's many steps in one: by halvings that share the training steps, or by consistency at once."""
    arm, config = settings.arm, settings.training
    batches = [(training_pairs(vae, settings.work, 1), settings.work.distilled)]
    made, steps, log = start, arm.chain, []
    while steps > 1:
        teacher = Teacher(copy.deepcopy(made.dit).to(settings.device).eval(), made.text.to(settings.device))
        folder, student = checkpoints / f"{steps:02}", copy.deepcopy(made.dit).requires_grad_(True)
        if arm.way == "progressive":
            loss = halving_loss(teacher, steps, batches)
            # Every halving sees pairs of its own.
            share = replace(config, steps=_halving_steps(settings), seed=100 * config.seed + steps)
            steps //= 2
        else:
            loss, share, steps = consistency_loss(teacher, steps, batches), config, 1
        dit = train(student, loss, share, folder, settings.device).cpu().eval().requires_grad_(False)
        made, log = made._replace(dit=dit), log + read_log(folder / "log.jsonl")
    return made, log


def _halvings(arm: Arm) -> int:
    return arm.chain.bit_length() - 1


def _halving_steps(settings: Settings) -> int:
    """Of each halving: they share the steps of the arm."""
    return max(1, settings.training.steps // _halvings(settings.arm))


def _before(settings: Settings) -> Settings:
    """The halvings of an arm that goes both ways."""
    training = _training(DISTILL, settings.training.steps, settings.training.seed)
    return replace(settings, arm=replace(settings.arm, way="progressive"), training=training)


def both(
    settings: Settings, start: Generator, taught: Generator, vae: VideoVAE, checkpoints: Path
) -> tuple[Generator, list[dict]]:
    """As many steps of halving as of adversarial training after them."""
    made, log = distilled(_before(settings), start, taught, vae, checkpoints / "halvings")
    made, more = adversarial(settings, made, taught, vae, checkpoints / "adversarial")
    return made, log + more


def smaller(
    settings: Settings, start: Generator, taught: Generator, vae: VideoVAE, checkpoints: Path
) -> tuple[Generator, list[dict]]:
    """A transformer with fewer weights that learns what the start restores, or the original; from the same noise."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.training.seed)
        student = DiT(transformer_config(SMALLER, windows=start.dit.config.windows))
    made = Generator(student, fixed_text(student.config.dim), start.noise_scale)
    teacher = teacher_of(start, settings.device)
    batches = [(training_pairs(vae, settings.work, 1), settings.work.distilled)]
    truth = float(settings.arm.way == "smaller alone")
    loss = matching_loss(teacher, 1, batches, made.text.to(settings.device), made.noise_scale, truth)
    dit = train(student, loss, settings.training, checkpoints, settings.device).cpu().eval()
    return made._replace(dit=dit.requires_grad_(False)), read_log(checkpoints / "log.jsonl")


class Way(NamedTuple):
    """How an arm is trained: from these settings, by this function."""

    base: TrainConfig
    make: Callable[[Settings, Generator, Generator, VideoVAE, Path], tuple[Generator, list[dict]]] | None


WAYS = {
    "as it is": Way(DISTILL, None),
    "adversarial": Way(ADVERSARIAL, adversarial),
    "progressive": Way(DISTILL, distilled),
    "consistency": Way(DISTILL, distilled),
    "both": Way(ADVERSARIAL, both),
    "smaller": Way(LAPTOP.smaller, smaller),
    "smaller alone": Way(LAPTOP.smaller, smaller),
}


def feed(settings: Settings, vae: VideoVAE) -> Feed:
    phases = [
        (
            round(share * settings.training.steps),
            mixed([(training_pairs(vae, settings.work, frames), n) for n, frames in batch], settings.device),
        )
        for share, batch in settings.arm.phases
    ]
    return growing(phases)


@lru_cache(maxsize=4)
def training_pairs(vae: VideoVAE, work: Work, frames: int) -> Pairs:
    """The pool that all arms and seeds draw from; encoded once and kept among the runs of the checkout."""
    count = dict(work.pools)[frames]
    return encode_pairs(vae, count, frames, (work.crop, work.crop), folder=CHECKOUT / "runs" / "pairs", presets=PRESETS)


@lru_cache(maxsize=4)
def _test_crops(vae: VideoVAE, part: Part, frames: int, count: int, seed: int) -> Crops:
    return crops_of(part, vae, PRESETS, frames, count, seed)


def test_crops(vae: VideoVAE, settings: Settings, frames: int, part: Part = "evaluation") -> Crops:
    """The crops that all arms of a seed are tested on."""
    return _test_crops(vae, part, frames, dict(settings.work.tests)[frames], settings.training.seed)


@torch.inference_mode()
def restored(made: Generator, vae: VideoVAE, crops: Crops) -> torch.Tensor:
    """(B, 3, T, H, W) in [0, 1], from one call of the transformer for each clip."""
    return vae.to_clips(made.restore(crops.pairs.low_BCTHW, crops.noise_BCTHW, steps=1)).clamp(0, 1)


def views(runs: dict[str, Sequence[dict]], settings: Settings, vae: VideoVAE) -> dict[str, list[str]]:
    """The test pictures that arms keep, as the first seed restored them, with "bicubic" and "original": by name, JPEGs
    in base64, small enough for a report."""
    crops = test_crops(vae, settings, 1)
    given = vae.to_clips(crops.pairs.low_BCTHW[:VIEWS]).clamp(0, 1)
    found = {"bicubic": [encode_picture(clip) for clip in given]}
    found |= {arm: of_seeds[0]["views"] for arm, of_seeds in runs.items()}
    found["original"] = [encode_picture(clip) for clip in crops.clips_BCTHW[:VIEWS]]
    return {name: [_as_jpeg(text) for text in pictures] for name, pictures in found.items()}


def _as_jpeg(text: str) -> str:
    file = io.BytesIO()
    Image.open(io.BytesIO(base64.b64decode(text))).save(file, "JPEG", quality=80, subsampling=0)
    return base64.b64encode(file.getvalue()).decode()


def figures_of(clips_BCTHW: torch.Tensor, crops: Crops) -> dict[str, float]:
    """The meters over crops (`mean_figures`); with flicker where there is more than one frame."""
    meters = (*METERS, "flicker") if clips_BCTHW.shape[2] > 1 else METERS
    return mean_figures(clips_BCTHW, crops.clips_BCTHW, meters)


def difference(runs: dict[str, Sequence[dict]], left: str, right: str, meter: str, frames: int = 1) -> list[float]:
    """`left` - `right` in a meter, one number for each seed."""
    pairs = zip(runs[left], runs[right], strict=True)
    return [a["figures"][str(frames)][meter] - b["figures"][str(frames)][meter] for a, b in pairs]
