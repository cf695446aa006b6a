"""Low-quality video in, restored video out: read, resize, encode, one step, decode, match colours, write.

Restoring is generating the high-quality latent from noise in one call of the transformer, with the latent of the
resized low-quality clip as its condition (the paper's section 3.1; x_0 = noise - v(noise, 1000)).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from seedvr2_lab.console import InputError, progress
from seedvr2_lab.media import color
from seedvr2_lab.media.degrade import resize
from seedvr2_lab.media.pictures import PICTURES
from seedvr2_lab.media.transform import padded_length
from seedvr2_lab.media.video import VideoReader
from seedvr2_lab.media.video_writer import VideoWriter
from seedvr2_lab.model.diffusion import build_condition, one_step
from seedvr2_lab.model.vae import VideoVAE
from seedvr2_lab.model.weights import Dtype, Generator, load_generator, load_vae

CHUNK = 17  # frames restored at a time: 1 + a multiple of the temporal factor
Keep = Callable[[str, Tensor], None]  # (name of a stage, its result)


class Restorer:
    """A VAE and a one-step generator, ready to restore clips that fit in memory. Both run in the text's dtype."""

    def __init__(self, generator: Generator, vae: VideoVAE, device: str = "cpu"):
        self.generator = generator._replace(dit=generator.dit.to(device), text=generator.text.to(device))
        self.vae, self.device = vae.to(device, generator.text.dtype), device

    @classmethod
    def load(
        cls, model: str | Path = "tiny", vae: str | Path | None = None, device: str = "cpu", dtype: Dtype = None
    ) -> "Restorer":
        """A generator by name or file, with the VAE whose latents it knows unless another is given."""
        generator = load_generator(model, dtype)
        return cls(generator, load_vae(vae or generator.vae, dtype), device)

    @property
    def multiple(self) -> int:
        """Pixels a token side: what height and width are padded to."""
        return self.vae.config.spatial_factor * self.generator.dit.config.patch[0]

    @torch.inference_mode()
    def __call__(
        self,
        clip_CTHW: Tensor,
        size: tuple[int, int],
        seed: int = 0,
        color_fix: bool = True,
        keep: Keep = lambda name, value: None,
    ) -> Tensor:
        """Restore a clip of any length.

        Args:
            clip_CTHW: (3, T, h, w) in [0, 1].
            size: height and width of the result, of any parity.
            seed: of the noise; the result does not depend on anything drawn before.
            color_fix: take the low frequencies from the input.
            keep: called with the name and the result of every stage, for looking inside.

        Returns:
            (3, T, *size) in [0, 1], on the CPU.
        """
        frames = clip_CTHW.shape[1]
        resized_TCHW = resize(clip_CTHW.transpose(0, 1).to(self.device), size)
        keep("resized", resized_TCHW)
        # One latent frame at a time: the result is the same, the memory is that of its few frames.
        padded_CTHW = self._pad(resized_TCHW.transpose(0, 1)).to(self.generator.text.dtype)
        latent = self.vae.to_latent(padded_CTHW[None], chunk=1)
        keep("condition", latent)
        noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed)).to(latent)
        noise = noise * self.generator.noise_scale
        restored = one_step(self.generator.dit, noise, build_condition(latent), self.generator.text)
        keep("latent", restored)
        decoded_CTHW = self.vae.to_clips(restored, chunk=1)[0][:, :frames, : size[0], : size[1]]
        decoded_TCHW = decoded_CTHW.transpose(0, 1).float()  # half precision would lose grey levels from here on
        keep("decoded", decoded_TCHW)
        if color_fix:
            decoded_TCHW = color.wavelet(decoded_TCHW, resized_TCHW)
        return decoded_TCHW.transpose(0, 1).clamp(0, 1).cpu()

    def _pad(self, clip_CTHW: Tensor) -> Tensor:
        """Repeat the last frame, row and column until the clip has a latent of whole tokens."""
        _, T, H, W = clip_CTHW.shape
        time = padded_length(T, self.vae.config.temporal_factor) - T
        return F.pad(clip_CTHW, (0, -W % self.multiple, 0, -H % self.multiple, 0, time), mode="replicate")


@dataclass
class Summary:
    """What `restore` did; seconds by phase."""

    frames: int = 0
    height: int = 0
    width: int = 0
    seconds: dict[str, float] = field(default_factory=lambda: {"read": 0.0, "restore": 0.0, "write": 0.0})


def restore(
    source: str | Path,
    target: str | Path,
    *,
    scale: float | None = None,
    height: int | None = None,
    model: str | Path = "tiny",
    seed: int = 0,
    color_fix: bool = True,
    codec: str = "h264",
    tolerant: bool = False,
    overwrite: bool = False,
    device: str = "cpu",
) -> Summary:
    """Restore a video or picture file: same frames, same times, same audio, exactly the size asked for.

    Args:
        source, target: files; the target appears under its name only when complete.
        scale: height and width of the result over those of the source, 4 by default.
        height: of the result instead of a scale; the width keeps the aspect ratio.
        seed: of the noise, the same for every stretch of frames.
        tolerant: restore what can be read of a damaged source.
        overwrite: replace an existing target.

    Raises:
        InputError: a file, size or option cannot be used. Nothing has been written then.
    """
    source, target = Path(source), Path(target)
    if target.exists() and not overwrite:
        raise InputError(f"{target} exists: give another name, or --overwrite")
    _check_device(device)
    reader = VideoReader(source, tolerant=tolerant)
    info = reader.info
    if target.suffix.lower() in PICTURES and info.frames > 1:
        raise InputError(f"{target} is a picture but {source} has {info.frames} frames: end the target in .mp4")
    summary = Summary(0, *_size(info.height, info.width, scale, height))
    audio = source if info.has_audio and target.suffix.lower() not in PICTURES else None
    writer = VideoWriter(target, summary.height, summary.width, like=info, audio_from=audio, codec=codec)
    with writer, progress((), "restore", total=info.frames, unit="frame") as bar:
        restorer = Restorer.load(model, device=device)  # after the writer's own checks: they answer at once
        clock = time.perf_counter()
        for frames_THWC, times in reader.chunks(CHUNK):
            clip = torch.from_numpy(np.ascontiguousarray(frames_THWC)).permute(3, 0, 1, 2).float() / 255
            clock = _lap(summary, "read", clock)
            restored = restorer(clip, (summary.height, summary.width), seed, color_fix)
            clock = _lap(summary, "restore", clock)
            pixels_THWC = rearrange((restored * 255).round().byte(), "C T H W -> T H W C").contiguous()
            writer.write(pixels_THWC.numpy(), times)
            clock = _lap(summary, "write", clock)
            summary.frames += len(times)
            bar.update(len(times))
    return summary


def _size(height: int, width: int, scale: float | None, target_height: int | None) -> tuple[int, int]:
    if scale is not None and target_height is not None:
        raise InputError("both a scale and a height were given: give one of them")
    if scale is not None and not 0 < scale <= 16:
        raise InputError(f"scale {scale:g} is out of range: give a number above 0 and at most 16")
    if target_height is not None and target_height < 1:
        raise InputError(f"height {target_height} is not a size: give at least 1")
    factor = target_height / height if target_height else scale or 4
    return target_height or max(1, round(height * factor)), max(1, round(width * factor))


def _check_device(device: str) -> None:
    try:
        torch.zeros((), device=device)
    except RuntimeError:
        raise InputError(f"device '{device}' is not on this machine: use cpu, or cuda where there is one") from None


def _lap(summary: Summary, phase: str, since: float) -> float:
    now = time.perf_counter()
    summary.seconds[phase] += now - since
    return now
