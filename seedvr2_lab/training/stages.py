"""The stages of the recipe, from a VAE to the one-step generator, and the record that stands beside each weight file.

    vae -> teacher -> progressive (or consistency) -> adversarial
                \\-> adversarial, the arms of Table 3 that start from the teacher
    regression: the yardstick;  smaller: a one-step model taught to a smaller one

Every stage takes its transformers from the weights that earlier stages left, or else from those of the package, and
leaves a weight file, with how it came about beside it. A stage that was stopped goes on where it was. All learn latents
of the bundled VAE: a VAE trained anew takes its place before the others are trained.
"""

import copy
import dataclasses
import json
import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from seedvr2_lab.config import transformer_config, vae_config
from seedvr2_lab.console import InputError, check_device, writable, write_whole
from seedvr2_lab.media.datasets import ClipFolder
from seedvr2_lab.model.discriminator import Discriminator
from seedvr2_lab.model.dit import DiT
from seedvr2_lab.model.vae import VideoVAE
from seedvr2_lab.model.weights import (
    BUNDLED,
    Generator,
    fixed_text,
    load_generator,
    load_vae,
    save_generator,
    save_vae,
    weights_hash,
)
from seedvr2_lab.training.adversarial import adversarial_players, growing, mixed
from seedvr2_lab.training.codec import CODEC, codec_loss, initialise, latent_scale
from seedvr2_lab.training.distill import consistency_loss, matching_loss, student_of, teacher_of
from seedvr2_lab.training.loop import Loss, TrainConfig, train, train_players
from seedvr2_lab.training.losses import ARMS
from seedvr2_lab.training.pairs import Pairs, encode_pairs
from seedvr2_lab.training.regression import regression_loss
from seedvr2_lab.training.schedule import LAST_NOISE, LAST_TRUTH, SCHEDULES, Schedule
from seedvr2_lab.training.teacher import teacher_loss
from seedvr2_lab.training.validation import Figures, Samples, generator_validation, vae_validation

SIZES = ("tiny", "study")
ARM, FINISHED = "full", "full"  # of the last stage: the losses unless others are asked for, and the result
WITH_TEACHER = ("progressive", "consistency", "adversarial", "smaller")
WITH_TRANSFORMER = ("regression", "teacher", *WITH_TEACHER)
OF = {  # options and the stages that know them
    "arm": ("adversarial",),
    "start": ("adversarial",),
    "teacher": WITH_TEACHER,
    "data": WITH_TRANSFORMER,
    "checkpointing": WITH_TRANSFORMER,
}
TEACHER_STEPS = 64  # of the paper's teacher
GUIDANCE = (1.0, 1.2, 1.5, 2.0, 7.5)  # what is tried on validation; 7.5 is the paper's
GUIDANCE_COST, CHOICE = 1.0, ("psnr", "texture")  # dB
# Shares of the noise that the last student learned with, of which validation chooses one: from less it restores
# something nearer to the mean of what it could draw. From none at all adversarial training would have nothing to vary.
NOISES = (1.0, 0.5, 0.25)


@dataclass(frozen=True)
class Stage:
    """What to train, how long and where; see `seedvr2-lab train --help`."""

    name: str
    run: Path  # checkpoints, logs, samples
    weights: Path  # finished files
    pools: Path  # encoded pairs, shared by all stages
    size: str = "tiny"
    profile: str = "laptop"
    seed: int = 0
    arm: str | None = None  # of the adversarial stage, `ARM` if None
    teacher: str | None = None
    start: str | None = None
    device: str = "cpu"
    data: str | None = None  # a folder of videos and pictures to learn from, the bundled photographs if None
    accumulate: int = 1  # batches whose gradients make one step
    checkpointing: bool = False  # blocks keep what enters them and run again for their gradients: less memory

    def __post_init__(self):
        for what, value, known in (
            ("stage", self.name, STAGES),
            ("size", self.size, SIZES),
            ("profile", self.profile, SCHEDULES),
            ("arm", self.arm or ARM, ARMS),
        ):
            if value not in known:
                raise InputError(f"there is no {what} '{value}': choose one of {', '.join(known)}")
        for option, stages in OF.items():
            if getattr(self, option) and self.name not in stages:
                raise InputError(f"--{option} is not for {self.name}, but for {', '.join(stages)}: leave it out")
        if self.accumulate < 1:
            raise InputError(f"--accumulate {self.accumulate}: give at least 1")
        check_device(self.device)

    @property
    def schedule(self) -> Schedule:
        return SCHEDULES[self.profile]

    def config(self, number: int = 0, training: str | None = None) -> TrainConfig:
        """The settings of the stage's training, or of the `number`-th of its trainings, counted from 1; `training`: its
        name in the schedule, if it is not that of the stage."""
        found = getattr(self.schedule, training or self.name)
        return replace(found, seed=100 * self.seed + number, accumulate=self.accumulate)

    def file(self, result: str) -> Path:
        """Where the result of a stage lies: for `tiny` under the name of the bundled model. The recipe's last result
        bears the name of its size."""
        name = self.size if result == FINISHED else result if self.size == "tiny" else f"{self.size}_{result}"
        return self.weights / f"dit_{name}.safetensors"

    def found(self, result: str, given: str | None) -> Generator:
        """A model that the stage needs: the one given, else that of an earlier stage, else the bundled one."""
        if given:
            return load_generator(given)
        for path in (self.file(result), BUNDLED / self.file(result).name):
            if path.is_file():
                return load_generator(path)
        raise InputError(f"{self.file(result)} is missing: train that stage first, or name another model")

    @cached_property
    def clips(self) -> ClipFolder | None:
        """The folder to learn from, looked through once."""
        size = (self.schedule.crop, self.schedule.crop)
        return ClipFolder(self.data, max(self.schedule.pools), size) if self.data else None

    def batches(self, vae: VideoVAE, large: bool = False) -> list[tuple[Pairs, int]]:
        """What successive steps draw, for stages that learn from one length at a time; `large` as in `encode`."""
        pools = self.encode(vae, {frames for _, frames in self.schedule.batches}, large)
        return [(pools[frames], clips) for clips, frames in self.schedule.batches]

    def encode(self, vae: VideoVAE, lengths: set[int], large: bool = False) -> dict[int, Pairs]:
        """Pools of pairs by the number of frames, the schedule's `pools` or its `large_pools`, of varied clips."""
        s, size = self.schedule, (self.schedule.crop, self.schedule.crop)
        counts = s.large_pools if large else s.pools
        vae.to(self.device)
        pools = {
            frames: encode_pairs(
                vae, counts[frames], frames, size, folder=self.pools, presets=s.presets, clips=self.clips, vary=large
            )
            for frames in sorted(lengths)
        }
        vae.cpu()  # validation happens there
        return pools

    def known_by(self, vae: VideoVAE, *models: Generator) -> list[str]:
        """What decides the result beside the settings of the training: those models, and the rest of the schedule."""
        s, folder = self.schedule, self.clips and self.clips.identity()
        drawn = (s.crop, s.pools, s.large_pools, s.batches, s.phases, s.presets)
        learnt = (self.arm, s.penalty, s.l1, LAST_TRUTH, LAST_NOISE)
        used = [(m.noise_scale, m.steps, m.guidance) for m in models]
        return [repr((folder, drawn, learnt, used)), *map(weights_hash, (vae, *(m.dit for m in models)))]

    @property
    def command(self) -> str:
        """That trains this stage."""
        words = ["seedvr2-lab", "train", self.name]
        for name in ("size", "profile", "seed", "arm", "teacher", "start", "data", "accumulate", "device"):
            value, usual = getattr(self, name), {"accumulate": 1, "device": "cpu"}.get(name)
            words += [f"--{name}", str(value)] if value != usual else []
        return shlex.join([*words, *(["--checkpointing"] if self.checkpointing else [])])


def train_vae(stage: Stage) -> Path:
    """The small VAE, for all sizes and profiles."""
    vae = VideoVAE(vae_config("small"))
    initialise(vae, CODEC.seed)
    config = replace(CODEC, accumulate=stage.accumulate)
    vae = train(vae, codec_loss, config, stage.run, stage.device).cpu()
    target = stage.weights / "vae_small.safetensors"
    save_vae(target, vae, latent_scale(vae))
    _record(target, stage, config, vae, {"validation": vae_validation(load_vae(target))})
    return target


def train_regression(stage: Stage) -> Path:
    """A one-step generator by plain regression."""
    dit, text = _new_dit(stage)
    vae = load_vae("small")
    made = Generator(dit, text, noise_scale=0.0)
    loss = regression_loss(stage.batches(vae), text.to(stage.device))
    return _finish(stage, "regression", _train(stage, made, loss, vae), vae)


def train_teacher(stage: Stage) -> Path:
    """The many-step teacher. Its guidance is chosen on validation: of the scales that cost at most `GUIDANCE_COST` of
    PSNR the one whose textures are nearest."""
    dit, text = _new_dit(stage)
    negative, vae = fixed_text(dit.config.dim, negative=True), load_vae("small")
    made = Generator(dit, text, noise_scale=1.0, steps=8, negative_text=negative)
    loss = teacher_loss(stage.batches(vae), text, negative)
    made = _train(stage, made, loss, vae)._replace(steps=TEACHER_STEPS)
    tried = {scale: _validate(stage, made._replace(guidance=scale), vae, (1,)) for scale in GUIDANCE}
    psnr, texture = ({scale: tried[scale][f"{name}, restored, 1 frames"] for scale in GUIDANCE} for name in CHOICE)
    best = min((scale for scale in GUIDANCE if psnr[scale] >= psnr[1.0] - GUIDANCE_COST), key=texture.get)
    made = made._replace(guidance=best)
    return _finish(stage, "teacher", made, vae, {"guidance": tried})


def train_progressive(stage: Stage) -> Path:
    """64 steps to one by halving; every student begins as its teacher and becomes the next one's. The last one learns
    from the clean latents, too; how much of its noise it is used with is chosen on validation, by PSNR."""
    vae, taught = load_vae("small"), stage.found("teacher", stage.teacher)
    if taught.steps < 2:
        raise InputError(f"{stage.teacher} is a model of one step: give --teacher one of several")
    batches, halvings = stage.batches(vae), {}
    while taught.steps > 1:
        config = stage.config(len(halvings) + 1)
        if taught.steps == 2:
            batches = stage.batches(vae, large=True)
            config = stage.config(len(halvings) + 1, "last_halving")
        student, loss = student_of(taught, batches, stage.device)
        taught = _train(stage, student, loss, vae, config, stage.run / f"steps_{student.steps:02}", taught)
        halvings[taught.steps] = _validate(stage, taught, vae)
    models = {share: taught._replace(noise_scale=share * LAST_NOISE) for share in NOISES}
    tried = {share: _validate(stage, model, vae, (1,)) for share, model in models.items()}
    best = max(NOISES, key=lambda share: tried[share]["psnr, restored, 1 frames"])
    last = {"last halving": dataclasses.asdict(config), "truth": LAST_TRUTH, "noise scale": LAST_NOISE}
    more = {**last, "steps of the student": halvings, "share of the noise": tried}
    return _finish(stage, "distilled", models[best], vae, more)


def train_consistency(stage: Stage) -> Path:
    """Many steps to one at once, by discrete-time consistency."""
    vae, taught = load_vae("small"), stage.found("teacher", stage.teacher)
    student = taught._replace(dit=copy.deepcopy(taught.dit).requires_grad_(True), steps=1, guidance=1.0)
    loss = consistency_loss(teacher_of(taught, stage.device), taught.steps, stage.batches(vae))
    return _finish(stage, "consistency", _train(stage, student, loss, vae, taught=taught), vae)


def train_adversarial(stage: Stage) -> Path:
    """Adversarial post-training of a one-step generator: the arm says with which losses and from which start."""
    losses, vae = stage.schedule.losses(stage.arm or ARM), load_vae("small")
    taught = stage.found("teacher", stage.teacher)
    start = stage.found("distilled", stage.start) if losses.start == "progressive" or stage.start else taught
    made = start._replace(dit=copy.deepcopy(start.dit).requires_grad_(True), steps=1, guidance=1.0, negative_text=None)
    config, text = stage.config(), made.text.to(stage.device)
    pools = stage.encode(vae, {frames for _, batch in stage.schedule.phases for _, frames in batch})
    feed = growing(
        [
            (round(share * config.steps), mixed([(pools[frames], clips) for clips, frames in batch], stage.device))
            for share, batch in stage.schedule.phases
        ]
    )
    torch.manual_seed(config.seed)  # of the discriminator's own blocks
    judge = Discriminator.from_teacher(taught.dit)
    made.dit.checkpointing = judge.backbone.checkpointing = stage.checkpointing
    players = adversarial_players(made.dit, judge, feed, text, losses, made.noise_scale)
    watch = Samples(vae, stage.schedule.presets, stage.run / "samples", made._replace(text=text), "generator")
    known_by = stage.known_by(vae, taught, start)
    trained = train_players(players, config, stage.run, stage.device, watch, known_by)["generator"]
    made, more = made._replace(dit=trained.cpu()), {"losses": dataclasses.asdict(losses)}
    return _finish(stage, stage.arm or FINISHED, made, vae, more)


def train_smaller(stage: Stage) -> Path:
    """A one-step generator of this size that learns from a larger one, as the paper's 3B does from its 7B."""
    vae = load_vae("small")
    earlier = stage.weights / "dit_distilled.safetensors"
    taught = load_generator(stage.teacher or (earlier if earlier.is_file() else "distilled"))
    if taught.steps != 1:
        raise InputError(f"{stage.teacher} is a model of {taught.steps} steps: give --teacher one of a single step")
    dit, text = _new_dit(stage)
    made = Generator(dit, text, taught.noise_scale)
    teacher, batches = teacher_of(taught, stage.device), stage.batches(vae)
    loss = matching_loss(teacher, taught.steps, batches, text.to(stage.device), made.noise_scale)
    return _finish(stage, "smaller", _train(stage, made, loss, vae, taught=taught), vae)


STAGES = {
    "vae": train_vae,
    "regression": train_regression,
    "teacher": train_teacher,
    "progressive": train_progressive,
    "consistency": train_consistency,
    "adversarial": train_adversarial,
    "smaller": train_smaller,
}


def train_stage(name: str, **fields) -> Path:
    """Train a stage with these fields of `Stage`; returns its weight file.

    Raises:
        InputError: a field names nothing known, or a model that the stage needs is missing.
        TrainingFailed: a loss was not finite or a player collapsed.
    """
    stage = Stage(name, **fields)
    writable(stage.weights, "--weights")
    return STAGES[name](stage)


def _new_dit(stage: Stage) -> tuple[DiT, torch.Tensor]:
    torch.manual_seed(stage.seed)
    dit = DiT(transformer_config(stage.size))
    return dit, fixed_text(dit.config.dim)


def _train(
    stage: Stage,
    made: Generator,
    loss: Loss,
    vae: VideoVAE,
    config: TrainConfig | None = None,
    run: Path | None = None,
    taught: Generator | None = None,
) -> Generator:
    """The generator with its transformer trained, on the CPU; `taught`: its teacher."""
    run, known_by = run or stage.run, stage.known_by(vae, made, *([taught] if taught else []))
    shown = made._replace(text=made.text.to(stage.device))
    watch = Samples(vae, stage.schedule.presets, run / "samples", shown)
    made.dit.checkpointing = stage.checkpointing
    return made._replace(dit=train(made.dit, loss, config or stage.config(), run, stage.device, watch, known_by).cpu())


def _validate(stage: Stage, made: Generator, vae: VideoVAE, lengths: Sequence[int] = (1, 5)) -> Figures:
    schedule = stage.schedule
    return generator_validation(made.restore, vae, schedule.presets, lengths, schedule.validation)


def _finish(stage: Stage, result: str, made: Generator, vae: VideoVAE, more: Mapping[str, Any] = {}) -> Path:
    """Write the weight file and its record."""
    target = stage.file(result)
    save_generator(target, made)
    validation = _validate(stage, load_generator(target), vae)
    _record(target, stage, stage.config(), made.dit, {**more, "validation": validation})
    return target


def _record(target: Path, stage: Stage, settings: TrainConfig, model: nn.Module, more: Mapping[str, Any]) -> None:
    """How the file came about, as JSON, and the logs of its trainings in one file beside it."""
    logs = {path.parent.name: path.read_text() for path in sorted(stage.run.rglob("log.jsonl"), reverse=True)}
    write_whole(target.with_suffix(".log.jsonl"), "".join(logs.values()))
    record = {
        "command": stage.command,
        "settings": dataclasses.asdict(settings),
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": round(sum(json.loads(log.splitlines()[-1])["seconds"] for log in logs.values()), 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
    }
    write_whole(target.with_suffix(".json"), json.dumps(record | more, indent=1) + "\n")
