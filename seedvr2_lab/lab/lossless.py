"""A codec that loses nothing, and models of its latents: to see whether the VAE decides what the recipe study finds.

Its latent is the picture itself, 4x4 pixels of three colours as 48 channels, so a token has 8x8 pixels as it has with
the small VAE. The bundled models know nothing of such latents; a teacher and a distilled one are trained here first.
"""

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from seedvr2_lab.config import transformer_config
from seedvr2_lab.console import make_once
from seedvr2_lab.lab.arms import arm_key
from seedvr2_lab.model.dit import DiT, DiTConfig
from seedvr2_lab.model.weights import Generator, fixed_text, load_generator, save_generator
from seedvr2_lab.training.distill import student_of
from seedvr2_lab.training.loop import Loss, TrainConfig, train
from seedvr2_lab.training.pairs import Pairs
from seedvr2_lab.training.schedule import DISTILL, LAST_TRUTH, SCRATCH
from seedvr2_lab.training.teacher import teacher_loss

SIDE = 4
# Times the steps of an arm: the teacher, each halving, the last one. Far shorter than the bundled models' trainings.
LENGTHS = TEACHER, HALVING, LAST = 12.0, 0.25, 4.0
NOISE = 0.25  # that the student of one step starts from; the bundled one's was found for another latent
MEAN, STD = 0.45, 0.25  # of the training pictures' pixels, about: latents get unit variance


class PixelUnshuffle(nn.Module):
    """Takes the place of a VAE, for clips of any length."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([MEAN, STD]), requires_grad=False)

    def to_latent(self, clips_BCTHW: Tensor) -> Tensor:
        """(B, 3, T, H, W) in [0, 1] -> (B, 48, T, H/4, W/4)"""
        mean, std = self.scale
        return (rearrange(clips_BCTHW, "B C T (H a) (W b) -> B (C a b) T H W", a=SIDE, b=SIDE) - mean) / std

    def to_clips(self, latent_BCTHW: Tensor) -> Tensor:
        mean, std = self.scale
        return rearrange(latent_BCTHW * std + mean, "B (C a b) T H W -> B C T (H a) (W b)", a=SIDE, b=SIDE)


def lossless_settings(steps: int) -> dict[str, Any]:
    """All that the models depend on besides the pairs, where an arm has so many steps."""
    return {
        "steps": steps,
        "lengths": LENGTHS,
        "base": [SCRATCH, DISTILL],
        "last": [LAST_TRUTH, NOISE],
        "codec": [SIDE, MEAN, STD],
        "transformer": _transformer(3 * SIDE**2),
    }


def lossless_models(batches: list[tuple[Pairs, int]], steps: int, device: str, folder: Path) -> dict[str, Generator]:
    """A "teacher" of 64 steps and a "distilled" model of one, trained on such pairs or read from an earlier training.

    Args:
        steps: of an arm, which the trainings' lengths follow.
        folder: where checkpoints and finished models lie, below a name made of all that they depend on.
    """
    drawn = [(hashlib.sha256(part.numpy().tobytes()).hexdigest(), n) for pairs, n in batches for part in pairs]
    folder = folder / arm_key({"lossless": lossless_settings(steps), "pairs": drawn})
    files = {name: folder / f"{name}.safetensors" for name in ("teacher", "distilled")}

    def make() -> None:
        taught = _teacher(batches, round(TEACHER * steps), device, folder / "64")
        save_generator(files["teacher"], taught)
        while taught.steps > 1:
            student, loss = student_of(taught, batches, device, NOISE)
            length = HALVING if student.steps > 1 else LAST
            config = replace(DISTILL, steps=max(1, round(length * steps)), seed=student.steps)
            taught = _trained(student, loss, config, device, folder / f"{student.steps:02}")
        save_generator(files["distilled"], taught)

    make_once(files["distilled"], folder / "lock", make)
    return {name: load_generator(path) for name, path in files.items()}


def _transformer(channels: int) -> DiTConfig:
    return transformer_config("tiny", in_channels=2 * channels + 1, out_channels=channels)


def _teacher(batches: list[tuple[Pairs, int]], steps: int, device: str, folder: Path) -> Generator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        dit = DiT(_transformer(batches[0][0].low_BCTHW.shape[1]))
    text, negative = (fixed_text(dit.config.dim, negative=which) for which in (False, True))
    made = Generator(dit, text, noise_scale=1.0, vae="lossless", steps=64)
    config = replace(SCRATCH, steps=steps, warmup=min(SCRATCH.warmup, steps // 5))
    return _trained(made, teacher_loss(batches, text, negative), config, device, folder)


def _trained(made: Generator, loss: Loss, config: TrainConfig, device: str, folder: Path) -> Generator:
    dit = train(made.dit, loss, config, folder, device).cpu().eval()
    return made._replace(dit=dit.requires_grad_(False))
