"""The models at work on clips in memory, chunk by chunk.

Restoring is generating the high-quality latent from noise, with the latent of the resized low-quality clip as its
condition (the paper's section 3.1); in one call of the transformer, x_0 = noise - v(noise, 1000).
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from seedvr2_lab.console import InputError, check_device
from seedvr2_lab.media.color import FIXES
from seedvr2_lab.media.degrade import resize
from seedvr2_lab.media.transform import padded_length
from seedvr2_lab.model.diffusion import build_condition, conditioned, sample
from seedvr2_lab.model.vae import VideoVAE
from seedvr2_lab.model.weights import Dtype, Generator, load_generator, load_vae, published_text
from seedvr2_lab.restore.chunks import Chunk, cut, join
from seedvr2_lab.restore.settings import Settings
from seedvr2_lab.restore.tiles import tiled

Keep = Callable[[str, Tensor], None]  # (name of a stage, its result)
Check = Callable[[], None]  # called between calls of the networks; raises to stop


class Restorer:
    """A VAE and a generator, ready to restore clips that fit in memory. Both run in the text's dtype."""

    def __init__(self, generator: Generator, vae: VideoVAE, device: str = "cpu"):
        self.generator = generator._replace(dit=generator.dit.to(device), text=generator.text.to(device))
        self.vae, self.device = vae.to(device, generator.text.dtype), device

    @classmethod
    def load(
        cls, model: str | Path = "tiny", vae: str | Path | None = None, device: str = "cpu", dtype: Dtype = None
    ) -> "Restorer":
        """A generator by name or file, with the VAE whose latents it knows unless another is given."""
        check_device(device)
        generator = load_generator(model, dtype)
        return cls(generator, load_vae(vae or generator.vae, dtype), device)

    @property
    def multiple(self) -> int:
        """Pixels a token side: what height and width are padded to."""
        return self.vae.config.spatial_factor * self.generator.dit.config.patch[0]

    def fingerprint(self) -> str:
        """Of sizes, settings and the first numbers of every tensor: tells models apart without reading all of them."""
        digest = hashlib.sha256(repr((self.generator.dit.config, self.vae.config, self.generator.noise_scale)).encode())
        for module in (self.generator.dit, self.vae):
            for tensor in module.state_dict().values():
                digest.update(tensor.flatten()[:16].cpu().float().numpy().tobytes())
        return digest.hexdigest()

    @torch.inference_mode()
    def __call__(
        self,
        clip_CTHW: Tensor,
        size: tuple[int, int],
        seed: int = 0,
        keep: Keep = lambda name, value: None,
        **settings,
    ) -> Tensor:
        """Restore a clip of any length.

        Args:
            clip_CTHW: (3, T, h, w) in [0, 1].
            size: height and width of the result, of any parity.
            seed: of the noise; the result does not depend on anything drawn before.
            keep: called with the name and the result of every stage of every chunk, for looking inside.
            settings: further fields of `Settings`.

        Returns:
            (3, T, *size) in [0, 1], on the CPU.
        """
        restored = self.stream(clip_CTHW.unbind(1), size, Settings(seed=seed, **settings), keep=keep)
        return torch.cat([run_TCHW for _, run_TCHW in restored]).transpose(0, 1)

    def stream(
        self,
        frames: Iterable[Tensor],
        size: tuple[int, int],
        settings: Settings,
        start: int = 0,
        keep: Keep = lambda name, value: None,
        check: Check = lambda: None,
    ) -> Iterator[tuple[int, Tensor]]:
        """Restore frames (3, h, w) in [0, 1] as they come.

        Args:
            start: the place of the first of them in its clip, where a chunk begins.

        Yields:
            The place of a run of restored frames and the run, (T, 3, *size) in [0, 1] on the CPU. The first run is
            right from its start for a clip's beginning; else the frames of the overlap lack the chunk before.
        """
        chunk, overlap = settings.lengths(self.vae.config.temporal_factor)
        self.check_guidance(settings)
        chunks = cut(frames, chunk, overlap, start)
        restored = (
            Chunk(place, self.chunk(clip_TCHW, size, settings, place, keep, check), is_last)
            for place, clip_TCHW, is_last in chunks
        )
        yield from join(restored, overlap)

    @torch.inference_mode()
    def chunk(
        self, clip_TCHW: Tensor, size: tuple[int, int], settings: Settings, place: int, keep: Keep, check: Check
    ) -> Tensor:
        """One chunk, (T, 3, h, w), whose first frame has that place in its clip, as (T, 3, *size) on the CPU."""
        check()
        resized_TCHW = resize(clip_TCHW.to(self.device), size)
        keep("resized", resized_TCHW)
        if not settings.strength:
            return resized_TCHW.cpu()
        latent = self._encode(self._pad(resized_TCHW.transpose(0, 1)), settings.tile, check)
        keep("condition", latent)
        latent = self._generate(latent, settings, place, check)
        keep("latent", latent)
        # Half precision would lose grey levels from here on.
        decoded_CTHW = self._decode(latent, settings.tile, check)[0].float()
        decoded_TCHW = decoded_CTHW[:, : len(resized_TCHW), : size[0], : size[1]].transpose(0, 1)
        keep("decoded", decoded_TCHW)
        fix, pairs = FIXES[settings.color], zip(decoded_TCHW.split(1), resized_TCHW.split(1), strict=True)
        frames = [torch.lerp(low, fix(high, low).clamp(0, 1), settings.strength).cpu() for high, low in pairs]
        return torch.cat(frames)

    def check_guidance(self, settings: Settings) -> None:
        """InputError if the model cannot be guided as asked."""
        self._negative(self._guidance(settings))

    def _pad(self, clip_CTHW: Tensor) -> Tensor:
        """Repeat the last frame, row and column until the clip has a latent of whole tokens; (1, C, T, H, W)."""
        _, T, H, W = clip_CTHW.shape
        time = padded_length(T, self.vae.config.temporal_factor) - T
        return F.pad(clip_CTHW, (0, -W % self.multiple, 0, -H % self.multiple, 0, time), mode="replicate")[None]

    def _encode(self, clip_BCTHW: Tensor, tile: int | None, check: Check) -> Tensor:
        """One latent frame at a time: the result is the same, the memory is that of its few frames."""
        vae, dtype = self.vae, self.generator.text.dtype

        def encode(part_BCTHW: Tensor) -> Tensor:
            frames = (_checked(frame * 2 - 1, check).to(dtype) for frame in part_BCTHW.split(1, 2))
            return torch.cat(list(vae.encode_stream(frames)), 2) * vae.config.scaling_factor

        return tiled(encode, clip_BCTHW, tile, 1 / vae.config.spatial_factor) if tile else encode(clip_BCTHW)

    def _decode(self, latent_BCTHW: Tensor, tile: int | None, check: Check) -> Tensor:
        vae = self.vae

        def decode(part_BCTHW: Tensor) -> Tensor:
            frames = (_checked(frame, check) for frame in (part_BCTHW / vae.config.scaling_factor).split(1, 2))
            return torch.cat(list(vae.decode_stream(frames)), 2) / 2 + 0.5

        space = vae.config.spatial_factor
        return tiled(decode, latent_BCTHW, max(1, tile // space), space) if tile else decode(latent_BCTHW)

    def _generate(self, latent_BCTHW: Tensor, settings: Settings, place: int, check: Check) -> Tensor:
        model = self.generator
        steps = settings.steps or model.steps
        guidance = self._guidance(settings)
        first = place // self.vae.config.temporal_factor
        noise = noise_at(latent_BCTHW.shape[1:], settings.seed, first).to(latent_BCTHW) * model.noise_scale
        velocity = conditioned(model.dit, build_condition(latent_BCTHW), model.text, self._negative(guidance), guidance)
        return sample(lambda x, time: velocity(_checked(x, check), time), noise[None], steps)

    def _guidance(self, settings: Settings) -> float:
        return self.generator.guidance if settings.guidance is None else settings.guidance

    def _negative(self, guidance: float) -> Tensor | None:
        if guidance == 1:
            return None
        text, negative = self.generator.text, self.generator.negative_text
        if negative is None and self.generator.vae != "published":
            raise InputError(f"guidance {guidance:g} needs a negative text, which this model has not: leave it at 1")
        return (published_text(negative=True) if negative is None else negative).to(text)


def noise_at(shape_CTHW: tuple[int, int, int, int], seed: int, first: int) -> Tensor:
    """Gaussian noise for latent frames `first`, `first` + 1, ... of a clip: each frame's is its own, so that chunks
    agree about the frames they share."""
    C, T, H, W = shape_CTHW
    frames = [np.random.default_rng([seed, first + t]).standard_normal((C, H, W), dtype=np.float32) for t in range(T)]
    return rearrange(torch.from_numpy(np.stack(frames)), "T C H W -> C T H W")


def _checked(x: Tensor, check: Check) -> Tensor:
    check()
    return x
