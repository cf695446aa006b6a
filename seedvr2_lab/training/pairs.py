"""Training pairs: the latent of a low-quality clip, and that of the clip itself.

Preparing a pair costs more than learning from it at the sizes of this laboratory. Pools of pairs are therefore encoded
once, before the training, and kept in a file that all stages and all runs with the same VAE share.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from seedvr2_lab.console import make_once, progress, whole
from seedvr2_lab.media.clips import FURTHEST, sample_clips, varied
from seedvr2_lab.media.datasets import ClipFolder
from seedvr2_lab.media.degrade import PRESETS, degrade, resize
from seedvr2_lab.model.vae import VideoVAE
from seedvr2_lab.model.weights import weights_hash


class Pairs(NamedTuple):
    """Latents of unit variance: what to restore, and what it should become."""

    low_BCTHW: Tensor
    high_BCTHW: Tensor

    def draw(self, count: int, generator: torch.Generator, device: torch.device | str = "cpu") -> "Pairs":
        """A random batch, with repeats."""
        rows = torch.randint(len(self.low_BCTHW), (count,), generator=generator)
        return Pairs(*(part[rows].to(device) for part in self))


def low_quality(clip_CTHW: Tensor, generator: torch.Generator, presets: Sequence[str] = ("simple",)) -> Tensor:
    """A clip in [0, 1] made worse, by one of the presets, and enlarged to its size again: what a restorer is given."""
    preset = presets[int(torch.randint(len(presets), (), generator=generator)) if len(presets) > 1 else 0]
    small_TCHW = degrade(clip_CTHW, generator, PRESETS[preset]).transpose(0, 1)
    return resize(small_TCHW, tuple(clip_CTHW.shape[2:])).transpose(0, 1)


@torch.no_grad()
def latent_pair(
    vae: VideoVAE, clips_BCTHW: Tensor, generator: torch.Generator, presets: Sequence[str] = ("simple",)
) -> Pairs:
    """Latents of the low-quality twins of clips in [0, 1], and of the clips themselves."""
    low = torch.stack([low_quality(clip, generator, presets) for clip in clips_BCTHW])
    device = next(vae.parameters()).device
    return Pairs(*vae.to_latent(torch.cat([low, clips_BCTHW]).to(device)).float().cpu().chunk(2))


def encode_pairs(
    vae: VideoVAE,
    count: int,
    frames: int,
    size: tuple[int, int],
    seed: int = 0,
    folder: Path | None = None,
    at_once: int = 16,
    presets: Sequence[str] = ("simple",),
    clips: ClipFolder | None = None,
    vary: bool = False,
) -> Pairs:
    """A pool of `count` pairs from `clips`, or else from the training pictures: clips of (frames, *size) pixels, each
    made worse by one of the presets; `vary` as in `media.clips.varied`.

    With `folder` the pool is kept there and read by the next caller that asks for the same one, who waits if another
    process is about to keep it.
    """
    furthest = 1.0 if clips else FURTHEST  # a folder was searched for what is as large as the clips
    draw = clips or partial(sample_clips, "training")
    if vary:
        draw = varied(draw, furthest)

    def encode() -> Pairs:
        generator = torch.Generator().manual_seed(seed)
        batches = []
        for start in progress(range(0, count, at_once), "encode pairs", unit="batch"):
            clips_BCTHW = draw(min(at_once, count - start), frames, size, generator)
            batches.append(latent_pair(vae, clips_BCTHW, generator, presets))
        return Pairs(*(torch.cat(parts) for parts in zip(*batches, strict=True)))

    if folder is None:
        return encode()
    key = {"count": count, "frames": frames, "size": size, "seed": seed, "presets": presets, "vae": weights_hash(vae)}
    if clips is not None:
        key["clips"] = clips.identity()
    if vary:
        key["varied"] = furthest
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:12]
    path = folder / f"pairs_{name}.safetensors"

    def keep() -> None:
        pool = encode()
        with whole(path) as new:
            save_file({"low": pool.low_BCTHW.contiguous(), "high": pool.high_BCTHW.contiguous()}, new)

    make_once(path, folder / f"{path.name}.lock", keep)
    with safe_open(path, "pt") as file:
        return Pairs(file.get_tensor("low"), file.get_tensor("high"))
