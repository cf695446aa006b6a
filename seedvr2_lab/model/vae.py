"""The causal video VAE, published layout and small sizes alike.

Shapes: B clips, C channels, T H W frames/height/width. A clip of T = f·k + 1 frames (f the temporal factor) has k + 1
latent frames: the first frame stands alone, every later latent covers f frames. That is why pictures (T = 1) and
clips share one network.

- Convolutions see the past only, GroupNorm and the middle attention work on single frames. So a clip may be cut
  anywhere in time with the same result, as long as every convolution remembers the last frames it saw (`Memory`).
- Parameter names are the published ones.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from seedvr2_lab.console import InputError
from seedvr2_lab.model.causal_network import CausalNetwork, Layer
from seedvr2_lab.model.video_layers import CausalConv3d, Downsampler, FrameNorm, Memory, Upsampler, recorded


@dataclass(frozen=True)
class VAEConfig:
    """Sizes of a `VideoVAE`; the defaults are the published ones."""

    in_channels: int = 3
    latent_channels: int = 16
    widths: tuple[int, ...] = (128, 256, 512, 512)  # one a resolution; each step halves height and width
    resnets: int = 2  # per encoder block; a decoder block has one more
    temporal_halvings: int = 2  # how many of the (last) spatial halvings also halve time
    norm_groups: int = 32
    mid_attention: bool = True
    scaling_factor: float = 0.9152  # latents times this have about unit variance; applied outside the VAE

    @property
    def spatial_factor(self) -> int:
        return 2 ** (len(self.widths) - 1)

    @property
    def temporal_factor(self) -> int:
        return 2**self.temporal_halvings

    @classmethod
    def from_published(cls, published: dict) -> "VAEConfig":
        """From the hyperparameter names of the published configuration file."""
        return cls(
            in_channels=published["in_channels"],
            latent_channels=published["latent_channels"],
            widths=tuple(published["block_out_channels"]),
            resnets=published["layers_per_block"],
            temporal_halvings=published["temporal_scale_num"],
            norm_groups=published["norm_num_groups"],
        )


def _silu(norm: FrameNorm, x_BCTHW: Tensor) -> Tensor:
    """SiLU of the norm, in place where no gradient needs the norm's result."""
    return F.silu(norm(x_BCTHW), inplace=not recorded(x_BCTHW, norm.weight))


class Resnet(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, groups: int):
        super().__init__()
        self.norm1 = FrameNorm(groups, in_channels)
        self.conv1 = CausalConv3d(in_channels, out_channels)
        self.norm2 = FrameNorm(groups, out_channels)
        self.conv2 = CausalConv3d(out_channels, out_channels)
        if in_channels != out_channels:
            self.conv_shortcut = CausalConv3d(in_channels, out_channels, kernel=1, pads=(0, 0))

    def forward(self, x_BCTHW: Tensor, memory: Memory | None) -> Tensor:
        h_BCTHW = self.conv1(_silu(self.norm1, x_BCTHW), memory)
        h_BCTHW = self.conv2(_silu(self.norm2, h_BCTHW), memory)
        return h_BCTHW + (self.conv_shortcut(x_BCTHW) if hasattr(self, "conv_shortcut") else x_BCTHW)


class FrameAttention(nn.Module):
    """One-head attention over the positions of each frame."""

    def __init__(self, channels: int, groups: int):
        super().__init__()
        self.group_norm = FrameNorm(groups, channels)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        B, _, _, H, W = x_BCTHW.shape
        tokens = rearrange(self.group_norm(x_BCTHW), "B C T H W -> (B T) (H W) C")
        mixed = F.scaled_dot_product_attention(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens))
        return x_BCTHW + rearrange(self.to_out[0](mixed), "(B T) (H W) C -> B C T H W", B=B, H=H, W=W)


class MidBlock(nn.Module):
    def __init__(self, channels: int, config: VAEConfig):
        super().__init__()
        self.resnets = nn.ModuleList(Resnet(channels, channels, config.norm_groups) for _ in range(2))
        self.attentions = nn.ModuleList(
            FrameAttention(channels, config.norm_groups) for _ in range(config.mid_attention)
        )

    def forward(self, x_BCTHW: Tensor, memory: Memory | None) -> Tensor:
        x_BCTHW = self.resnets[0](x_BCTHW, memory)
        for attention in self.attentions:
            x_BCTHW = attention(x_BCTHW)
        return self.resnets[1](x_BCTHW, memory)


class Level(nn.Module):
    """The residual blocks of one resolution; a subclass adds the way to the next."""

    def __init__(self, in_channels: int, out_channels: int, resnets: int, groups: int):
        super().__init__()
        widths = [in_channels] + [out_channels] * resnets
        self.resnets = nn.ModuleList(Resnet(a, b, groups) for a, b in pairwise(widths))

    def layers(self) -> list[Layer]:
        return [layer for part in self.children() for layer in part]

    def forward(self, x_BCTHW: Tensor, memory: Memory | None) -> Tensor:
        for layer in self.layers():
            x_BCTHW = layer(x_BCTHW, memory)
        return x_BCTHW


class DownBlock(Level):
    def __init__(self, in_channels: int, out_channels: int, config: VAEConfig, down: bool, temporal: bool):
        super().__init__(in_channels, out_channels, config.resnets, config.norm_groups)
        self.downsamplers = nn.ModuleList([Downsampler(out_channels, temporal)] if down else [])


class UpBlock(Level):
    def __init__(self, in_channels: int, out_channels: int, config: VAEConfig, up: bool, temporal: bool):
        super().__init__(in_channels, out_channels, config.resnets + 1, config.norm_groups)
        self.upsamplers = nn.ModuleList([Upsampler(out_channels, temporal)] if up else [])


class Encoder(CausalNetwork):
    """(B, 3, T, H, W) to the posterior's (B, 2·latent_channels, t, h, w): mean and log-variance."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        widths, levels = config.widths, len(config.widths) - 1
        self.conv_in = CausalConv3d(config.in_channels, widths[0])
        self.down_blocks = nn.ModuleList(
            DownBlock(
                widths[max(i - 1, 0)],
                widths[i],
                config,
                down=i < levels,
                temporal=i >= levels - config.temporal_halvings,
            )
            for i in range(levels + 1)
        )
        self.mid_block = MidBlock(widths[-1], config)
        self.conv_norm_out = FrameNorm(config.norm_groups, widths[-1])
        self.conv_out = CausalConv3d(widths[-1], 2 * config.latent_channels)

    def layers(self) -> list[Layer]:
        levels = [layer for block in self.down_blocks for layer in block.layers()]
        return [self.conv_in, *levels, self.mid_block, self._end]

    def _end(self, x_BCTHW: Tensor, memory: Memory | None) -> Tensor:
        return self.conv_out(_silu(self.conv_norm_out, x_BCTHW), memory)


class Decoder(CausalNetwork):
    """(B, latent_channels, t, h, w) back to (B, 3, T, H, W); no activation at the end."""

    def __init__(self, config: VAEConfig):
        super().__init__()
        widths, levels = config.widths[::-1], len(config.widths) - 1
        self.conv_in = CausalConv3d(config.latent_channels, widths[0])
        self.mid_block = MidBlock(widths[0], config)
        self.up_blocks = nn.ModuleList(
            UpBlock(widths[max(i - 1, 0)], widths[i], config, up=i < levels, temporal=i < config.temporal_halvings)
            for i in range(levels + 1)
        )
        self.conv_norm_out = FrameNorm(config.norm_groups, widths[-1])
        self.conv_out = CausalConv3d(widths[-1], config.in_channels)

    def layers(self) -> list[Layer]:
        levels = [layer for block in self.up_blocks for layer in block.layers()]
        return [self.conv_in, self.mid_block, *levels, self._end]

    def _end(self, x_BCTHW: Tensor, memory: Memory | None) -> Tensor:
        return self.conv_out(_silu(self.conv_norm_out, x_BCTHW), memory)


class VideoVAE(nn.Module):
    """Clips in [-1, 1] to latents and back, in the VAE's own scale, always 5-D."""

    def __init__(self, config: VAEConfig = VAEConfig()):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def spare_memory(self, limit: int = CausalConv3d.limit, recompute: bool = False) -> "VideoVAE":
        """Settings that change no result: frames of more than `limit` bytes are convolved area by area where no
        gradients are recorded; with `recompute`, training computes every layer's inside a second time instead of
        keeping it."""
        for module in self.modules():
            if isinstance(module, CausalConv3d):
                module.limit = limit
        self.encoder.recompute = self.decoder.recompute = recompute
        return self

    def posterior(self, video_BCTHW: Tensor, chunk: int | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latent, each (B, latent_channels, (T - 1)/f + 1, H/s, W/s).

        With `chunk`, the clip is streamed that many latent frames at a time: besides video and latent, memory does not
        grow with the clip. The result does not depend on it. Raises InputError unless T = f·k + 1 and the spatial
        factor divides H and W.
        """
        self._check_frames(video_BCTHW.shape[2])
        self._check_size(video_BCTHW)
        if chunk is None:
            moments = self.encoder(video_BCTHW)
        else:
            pieces = video_BCTHW.split(self.config.temporal_factor * chunk, 2)
            moments = torch.cat(list(self.encoder.stream(pieces)), 2)
        mean, log_variance = moments.chunk(2, 1)
        return mean, log_variance.clamp(-30, 20)

    def encode(
        self,
        video_BCTHW: Tensor,
        sample: bool = True,
        generator: torch.Generator | None = None,
        chunk: int | None = None,
    ) -> Tensor:
        """A draw from the posterior (its mode with `sample=False`)."""
        mean, log_variance = self.posterior(video_BCTHW, chunk)
        if not sample:
            return mean
        noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
        return mean + (0.5 * log_variance).exp() * noise

    def encode_stream(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """`encode` without noise of one clip in pieces (B, C, T, H, W), each of any number of frames; a latent frame
        comes as soon as its last frame is there. InputError as in `posterior`, for the number of frames at the end."""
        count = 0

        def checked() -> Iterator[Tensor]:
            nonlocal count
            for piece_BCTHW in pieces:
                self._check_size(piece_BCTHW)
                count += piece_BCTHW.shape[2]
                yield piece_BCTHW

        for moments in self.encoder.stream(checked()):
            yield moments.chunk(2, 1)[0]
        self._check_frames(count)

    def decode(self, latent_BCTHW: Tensor, chunk: int | None = None) -> Tensor:
        """(B, latent_channels, t, h, w) to (B, 3, f·(t - 1) + 1, s·h, s·w); `chunk` as in `posterior`."""
        if chunk is None:
            return self.decoder(latent_BCTHW)
        return torch.cat(list(self.decode_stream(latent_BCTHW.split(chunk, 2))), 2)

    def decode_stream(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """`decode` of one latent in pieces, each of any number of frames; frames come one at a time."""
        return self.decoder.stream(pieces)

    def to_latent(self, clips_BCTHW: Tensor, chunk: int | None = None) -> Tensor:
        """Clips in [0, 1] to latents of about unit variance, without noise: what the transformer works on."""
        return self.encode(clips_BCTHW * 2 - 1, sample=False, chunk=chunk) * self.config.scaling_factor

    def to_clips(self, latent_BCTHW: Tensor, chunk: int | None = None) -> Tensor:
        """Back from latents of unit variance to clips; they may leave [0, 1] a little."""
        return self.decode(latent_BCTHW / self.config.scaling_factor, chunk) / 2 + 0.5

    def _check_frames(self, T: int) -> None:
        factor = self.config.temporal_factor
        if T % factor != 1 % factor:
            raise InputError(
                f"a clip of {T} frames has no latent: pad it to {factor}k + 1 frames (repeat the last one)"
            )

    def _check_size(self, video_BCTHW: Tensor) -> None:
        space = self.config.spatial_factor
        H, W = video_BCTHW.shape[3:]
        if H % space or W % space:
            raise InputError(f"frames of {H}x{W} have no latent: pad height and width to multiples of {space}")
