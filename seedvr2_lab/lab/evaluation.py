"""How good a restorer is, on the pictures that nothing was ever chosen or trained on."""

from collections.abc import Sequence
from statistics import fmean

import torch
import torch.nn.functional as F

from seedvr2_lab.console import progress
from seedvr2_lab.media.clips import EVALUATION, load_picture
from seedvr2_lab.media.degrade import Degradation, degrade, resize
from seedvr2_lab.metrics import psnr, ssim
from seedvr2_lab.model.vae import VideoVAE
from seedvr2_lab.restore import Restorer

Table = dict[str, dict[str, dict[str, float]]]  # picture -> method -> metric -> value


@torch.inference_mode()
def evaluate_pictures(restorer: Restorer, seeds: Sequence[int] = (0, 1, 2)) -> Table:
    """PSNR and SSIM of bicubic interpolation, the restorer and the VAE alone (its ceiling) on the evaluation pictures.

    Every picture is degraded x4 (`Degradation()`) once a seed; figures are means over seeds. "mean" is the mean over
    pictures.
    """
    table: Table = {}
    for name in progress(EVALUATION, "evaluate", unit="picture"):
        picture = load_picture(name)[:, None]
        scale = Degradation().scale
        reference = picture[:, :, : picture.shape[2] // scale * scale, : picture.shape[3] // scale * scale]
        size = tuple(reference.shape[2:])
        results: dict[str, list[dict[str, float]]] = {"bicubic": [], "restored": [], "vae": []}
        for seed in seeds:
            low = degrade(reference, torch.Generator().manual_seed(seed))
            outputs = {
                "bicubic": resize(low.transpose(0, 1), size).transpose(0, 1),
                "restored": restorer(low, size, seed),
                "vae": vae_round_trip(restorer.vae, reference),
            }
            for method, output in outputs.items():
                results[method].append({"psnr": psnr(output, reference), "ssim": ssim(output, reference)})
        table[name] = {
            method: {metric: fmean(row[metric] for row in rows) for metric in rows[0]}
            for method, rows in results.items()
        }
    table["mean"] = {
        method: {metric: fmean(table[name][method][metric] for name in EVALUATION) for metric in ("psnr", "ssim")}
        for method in ("bicubic", "restored", "vae")
    }
    return table


@torch.no_grad()
def vae_round_trip(vae: VideoVAE, clip_CTHW: torch.Tensor) -> torch.Tensor:
    """A clip in [0, 1] encoded and decoded: what no restoration in this latent space can beat."""
    T, H, W = clip_CTHW.shape[1:]
    space, time = vae.config.spatial_factor, vae.config.temporal_factor
    padding = (0, -W % space, 0, -H % space, 0, -(T - 1) % time)
    padded = F.pad(clip_CTHW[None], padding, mode="replicate")
    return vae.to_clips(vae.to_latent(padded))[0, :, :T, :H, :W].clamp(0, 1)


def as_markdown(table: Table) -> str:
    """The table as it stands in the README."""
    names = {"bicubic": "bicubic", "restored": "`tiny`, one step", "vae": "VAE alone (ceiling)"}
    lines = ["| picture | " + " | ".join(names.values()) + " |", "|---" * (len(names) + 1) + "|"]
    for picture, methods in table.items():
        cells = [f"{methods[method]['psnr']:.2f} dB / {methods[method]['ssim']:.3f}" for method in names]
        lines.append(f"| {picture} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
