"""The causal video VAE, published layout and small sizes alike.

Shapes: B clips, C channels, T H W frames/height/width. A clip of T = f·k + 1 frames (f the temporal factor) has k + 1
latent frames: the first frame stands alone, every later latent covers f frames. That is why pictures (T = 1) and
clips share one network.

- Convolutions see the past only: copies of the first frame stand in front of the clip, zeros never do.
- GroupNorm and the middle attention work on single frames, so a clip may be cut anywhere in time with the same result
  (`chunk`), as long as every convolution remembers the last frames it saw.
- Parameter names are the published ones.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from seedvr2_lab.console import InputError

Memory = dict["CausalConv3d", Tensor]  # the last input frames of every convolution, between two chunks of one clip


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


class CausalConv3d(nn.Conv3d):
    """A convolution whose output frame i sees input frames up to i·stride only."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int | tuple = 3, stride: int | tuple = 1, pad: int = 1
    ):
        super().__init__(in_channels, out_channels, kernel, stride, padding=(0, pad, pad))

    def forward(self, x_BCTHW: Tensor, memory: Memory | None = None) -> Tensor:
        kernel_t, stride_t = self.kernel_size[0], self.stride[0]
        if kernel_t == 1:
            return super().forward(x_BCTHW)
        if memory is None and x_BCTHW.shape[2] == 1:
            # A picture stands before copies of itself: every time slice of the kernel meets the same frame.
            weight = self.weight.sum(2)
            y_BCHW = F.conv2d(x_BCTHW.squeeze(2), weight, self.bias, self.stride[1:], self.padding[1:])
            return y_BCHW.unsqueeze(2)
        past = memory.get(self) if memory is not None else None
        if past is None:
            past = x_BCTHW[:, :, :1].expand(-1, -1, kernel_t - 1, -1, -1)
        x_BCTHW = torch.cat([past, x_BCTHW], 2)
        if memory is not None:
            memory[self] = x_BCTHW[:, :, -(kernel_t - stride_t) :].clone()  # a view would keep the whole chunk alive
        return super().forward(x_BCTHW)


class FrameNorm(nn.GroupNorm):
    """GroupNorm with statistics of single frames."""

    def __init__(self, groups: int, channels: int):
        super().__init__(groups, channels, eps=1e-6)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        frames = super().forward(rearrange(x_BCTHW, "B C T H W -> (B T) C H W"))
        return rearrange(frames, "(B T) C H W -> B C T H W", B=x_BCTHW.shape[0])


class Resnet(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, groups: int):
        super().__init__()
        self.norm1 = FrameNorm(groups, in_channels)
        self.conv1 = CausalConv3d(in_channels, out_channels)
        self.norm2 = FrameNorm(groups, out_channels)
        self.conv2 = CausalConv3d(out_channels, out_channels)
        if in_channels != out_channels:
            self.conv_shortcut = CausalConv3d(in_channels, out_channels, kernel=1, pad=0)

    def forward(self, x_BCTHW: Tensor, memory: Memory | None) -> Tensor:
        h_BCTHW = self.conv1(F.silu(self.norm1(x_BCTHW)), memory)
        h_BCTHW = self.conv2(F.silu(self.norm2(h_BCTHW)), memory)
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


class Downsampler(nn.Module):
    """Halves height and width, and time if `temporal`: T frames become (T - 1) // 2 + 1."""

    def __init__(self, channels: int, temporal: bool):
        super().__init__()
        kernel, stride = ((3, 3, 3), (2, 2, 2)) if temporal else ((1, 3, 3), (1, 2, 2))
        self.conv = CausalConv3d(channels, channels, kernel, stride, pad=0)

    def forward(self, x_BCTHW: Tensor, memory: Memory | None) -> Tensor:
        return self.conv(F.pad(x_BCTHW, (0, 1, 0, 1)), memory)  # published padding: right and bottom only


class Upsampler(nn.Module):
    """Doubles height and width, and time if `temporal`: T frames become 2T - 1 (2T in later chunks of a clip)."""

    def __init__(self, channels: int, temporal: bool):
        super().__init__()
        self.frames = 2 if temporal else 1
        self.upscale_conv = CausalConv3d(channels, channels * 4 * self.frames, kernel=1, pad=0)
        self.conv = CausalConv3d(channels, channels)
        with torch.no_grad():  # starts as nearest-neighbour copies
            self.upscale_conv.weight.copy_(torch.eye(channels).repeat(4 * self.frames, 1)[..., None, None, None])
            self.upscale_conv.bias.zero_()

    def forward(self, x_BCTHW: Tensor, memory: Memory | None) -> Tensor:
        first = memory is None or self.conv not in memory
        x_BCTHW = rearrange(
            self.upscale_conv(x_BCTHW), "B (x y z C) T H W -> B C (T z) (H x) (W y)", x=2, y=2, z=self.frames
        )
        if first and self.frames == 2:  # the first frame stands for itself alone
            x_BCTHW = torch.cat([x_BCTHW[:, :, :1], x_BCTHW[:, :, 2:]], 2)
        return self.conv(x_BCTHW, memory)


class DownBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, config: VAEConfig, down: bool, temporal: bool):
        super().__init__()
        widths = [in_channels] + [out_channels] * config.resnets
        self.resnets = nn.ModuleList(Resnet(a, b, config.norm_groups) for a, b in pairwise(widths))
        self.downsamplers = nn.ModuleList([Downsampler(out_channels, temporal)] if down else [])

    def forward(self, x_BCTHW: Tensor, memory: Memory | None) -> Tensor:
        for layer in [*self.resnets, *self.downsamplers]:
            x_BCTHW = layer(x_BCTHW, memory)
        return x_BCTHW


class UpBlock(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, config: VAEConfig, up: bool, temporal: bool):
        super().__init__()
        widths = [in_channels] + [out_channels] * (config.resnets + 1)
        self.resnets = nn.ModuleList(Resnet(a, b, config.norm_groups) for a, b in pairwise(widths))
        self.upsamplers = nn.ModuleList([Upsampler(out_channels, temporal)] if up else [])

    def forward(self, x_BCTHW: Tensor, memory: Memory | None) -> Tensor:
        for layer in [*self.resnets, *self.upsamplers]:
            x_BCTHW = layer(x_BCTHW, memory)
        return x_BCTHW


class Encoder(nn.Module):
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

    def forward(self, x_BCTHW: Tensor, memory: Memory | None = None) -> Tensor:
        x_BCTHW = self.conv_in(x_BCTHW, memory)
        for block in [*self.down_blocks, self.mid_block]:
            x_BCTHW = block(x_BCTHW, memory)
        return self.conv_out(F.silu(self.conv_norm_out(x_BCTHW)), memory)


class Decoder(nn.Module):
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

    def forward(self, x_BCTHW: Tensor, memory: Memory | None = None) -> Tensor:
        x_BCTHW = self.conv_in(x_BCTHW, memory)
        for block in [self.mid_block, *self.up_blocks]:
            x_BCTHW = block(x_BCTHW, memory)
        return self.conv_out(F.silu(self.conv_norm_out(x_BCTHW)), memory)


class VideoVAE(nn.Module):
    """Clips in [-1, 1] to latents and back, in the VAE's own scale, always 5-D."""

    def __init__(self, config: VAEConfig = VAEConfig()):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def posterior(self, video_BCTHW: Tensor, chunk: int | None = None) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latent, each (B, latent_channels, (T - 1)/f + 1, H/s, W/s).

        `chunk` is the number of latent frames encoded at a time (None: all at once); memory shrinks, the result does
        not change. Raises InputError unless T = f·k + 1 and the spatial factor divides H and W.
        """
        self._check(video_BCTHW)
        factor = self.config.temporal_factor
        if chunk is None:
            moments = self.encoder(video_BCTHW)
        else:
            first = 1 + factor * (chunk - 1)  # the first latent stands for one frame only
            parts = [video_BCTHW[:, :, :first], *video_BCTHW[:, :, first:].split(factor * chunk, 2)]
            memory: Memory = {}
            moments = torch.cat([self.encoder(part, memory) for part in parts if part.shape[2]], 2)
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

    def decode(self, latent_BCTHW: Tensor, chunk: int | None = None) -> Tensor:
        """(B, latent_channels, t, h, w) to (B, 3, f·(t - 1) + 1, s·h, s·w); `chunk` as in `posterior`."""
        if chunk is None:
            return self.decoder(latent_BCTHW)
        memory: Memory = {}
        return torch.cat([self.decoder(part, memory) for part in latent_BCTHW.split(chunk, 2)], 2)

    def to_latent(self, clips_BCTHW: Tensor, chunk: int | None = None) -> Tensor:
        """Clips in [0, 1] to latents of about unit variance, without noise: what the transformer works on."""
        return self.encode(clips_BCTHW * 2 - 1, sample=False, chunk=chunk) * self.config.scaling_factor

    def to_clips(self, latent_BCTHW: Tensor, chunk: int | None = None) -> Tensor:
        """Back from latents of unit variance to clips; they may leave [0, 1] a little."""
        return self.decode(latent_BCTHW / self.config.scaling_factor, chunk) / 2 + 0.5

    def _check(self, video_BCTHW: Tensor) -> None:
        factor, space = self.config.temporal_factor, self.config.spatial_factor
        T, H, W = video_BCTHW.shape[2:]
        if T % factor != 1 % factor:
            raise InputError(
                f"a clip of {T} frames has no latent: pad it to {factor}k + 1 frames (repeat the last one)"
            )
        if H % space or W % space:
            raise InputError(f"frames of {H}x{W} have no latent: pad height and width to multiples of {space}")
