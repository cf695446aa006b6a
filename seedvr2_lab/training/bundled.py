"""The two trainings whose weights come with the package, and the record that stands beside each file."""

import dataclasses
import json
import os
import platform
from pathlib import Path

import torch
from torch import Tensor, nn

from seedvr2_lab import config
from seedvr2_lab.media.clips import sample_clips
from seedvr2_lab.metrics import psnr, ssim
from seedvr2_lab.model.diffusion import build_condition, one_step
from seedvr2_lab.model.dit import DiT
from seedvr2_lab.model.vae import VideoVAE
from seedvr2_lab.model.weights import Generator, fixed_text, load_generator, load_vae, save_generator, save_vae
from seedvr2_lab.training.codec import CODEC, codec_loss, initialise, latent_scale
from seedvr2_lab.training.loop import TrainConfig, train
from seedvr2_lab.training.pairs import latent_pair
from seedvr2_lab.training.regression import TINY, regression_loss, tiny_batches

Figures = dict[str, float]


def train_vae(run: Path, weights: Path, device: str = "cpu") -> Path:
    """The small VAE. `run` keeps checkpoint and log, `weights` gets the file and its record; returns the file."""
    vae = VideoVAE(config.vae_config("small"))
    initialise(vae, CODEC.seed)
    vae = train(vae, codec_loss, CODEC, run, device).cpu()
    target = weights / "vae_small.safetensors"
    weights.mkdir(parents=True, exist_ok=True)
    save_vae(target, vae, latent_scale(vae))
    _record(target, "vae", run, CODEC, vae, vae_validation(load_vae(target)))
    return target


def train_tiny(run: Path, weights: Path, device: str = "cpu") -> Path:
    """The one-step generator `tiny` on the latents of the bundled VAE, by regression."""
    torch.manual_seed(TINY.seed)  # the initial weights
    dit, vae = DiT(config.transformer_config("tiny")), load_vae("small")
    text = fixed_text(dit.config.dim)
    batches = tiny_batches(vae.to(device), run)
    dit = train(dit, regression_loss(batches, text), TINY, run, device).cpu()
    target = weights / "dit_tiny.safetensors"
    weights.mkdir(parents=True, exist_ok=True)
    save_generator(target, Generator(dit, text, noise_scale=0.0))
    _record(target, "tiny", run, TINY, dit, generator_validation(load_generator(target), vae.cpu()))
    return target


STAGES = {"vae": train_vae, "tiny": train_tiny}


@torch.no_grad()
def vae_validation(vae: VideoVAE) -> Figures:
    """Reconstruction of validation crops by the number of frames (PSNR in dB, SSIM)."""
    figures = {}
    for frames in (1, 5, 17):
        clips = sample_clips("validation", 16, frames, (96, 96), torch.Generator().manual_seed(1000))
        outputs = vae.to_clips(vae.to_latent(clips)).clamp(0, 1)
        figures |= _mean_figures(f"{frames} frames", outputs, clips)
    return figures


@torch.no_grad()
def generator_validation(generator: Generator, vae: VideoVAE) -> Figures:
    """Restoration of degraded validation crops, beside what the VAE makes of the degraded and of the true ones."""
    figures = {}
    for frames in (1, 5):
        random = torch.Generator().manual_seed(1000)
        clips = sample_clips("validation", 16, frames, (96, 96), random)
        low, high = latent_pair(vae, clips, random)
        noise = torch.randn(low.shape, generator=random) * generator.noise_scale
        restored = one_step(generator.dit, noise, build_condition(low), generator.text)
        for name, latent in {"input": low, "restored": restored, "vae": high}.items():
            outputs = vae.to_clips(latent).clamp(0, 1)
            figures |= _mean_figures(f"{name}, {frames} frames", outputs, clips)
    return figures


def _mean_figures(name: str, outputs: Tensor, clips: Tensor) -> Figures:
    pairs = list(zip(outputs, clips, strict=True))
    return {
        f"{metric.__name__}, {name}": round(sum(metric(*pair) for pair in pairs) / len(pairs), 4)
        for metric in (psnr, ssim)
    }


def _record(target: Path, stage: str, run: Path, settings: TrainConfig, model: nn.Module, figures: Figures) -> None:
    """How the file came about, as JSON and log beside it."""
    log = (run / "log.jsonl").read_text()
    target.with_suffix(".log.jsonl").write_text(log)
    record = {
        "command": f"seedvr2-lab train {stage}",
        "settings": dataclasses.asdict(settings),
        "parameters": sum(p.numel() for p in model.parameters()),
        "seconds": json.loads(log.splitlines()[-1])["seconds"],
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "validation": figures,
    }
    target.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
