"""Trains the small video VAE: pictures and clips by turns, L1 and a light pull towards a standard normal latent.

Our choice: no perceptual and no adversarial term. The small VAE is the ruler that all ablations are read with; its
errors should be plain blur, not invented texture. The published VAE's own training is not described in the paper.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from seedvr2_lab.media.clips import sample_clips
from seedvr2_lab.model.vae import CausalConv3d, Resnet, VAEConfig, VideoVAE
from seedvr2_lab.training.loop import TrainConfig

# The start is close to an optimum: rates of 1e-4 and more first destroy it and take hundreds of steps to come back.
CODEC = TrainConfig(steps=500, learning_rate=4e-5, warmup=100, checkpoint_every=100)
KL_WEIGHT = 1e-5  # per latent number; small enough that the posterior's noise costs no visible detail
BATCHES = ((16, 1), (4, 5), (16, 1), (4, 5), (2, 9))  # (clips, frames) of successive steps
CROP = 96
START = ((96, 1), (24, 5))  # (clips, frames) that the start is fitted to


@torch.no_grad()
def initialise(vae: VideoVAE, seed: int) -> None:
    """Start as a linear codec: principal components of blocks of pixels and frames, level by level.

    PyTorch's own start was 7 dB behind this one after 600 steps. Residual branches begin at zero. Between them every
    downsampler of the encoder moves its blocks into channels, projected where there are more than its width, and the
    decoder goes the same way back. All other channels keep their random start. Needs a first level of at least 12
    channels and last blocks that change the width.
    """
    torch.manual_seed(seed)
    vae.apply(lambda module: module.reset_parameters() if isinstance(module, CausalConv3d) else None)
    for module in vae.modules():
        if isinstance(module, Resnet):
            nn.init.zeros_(module.conv2.weight)
            nn.init.zeros_(module.conv2.bias)
    generator = torch.Generator().manual_seed(seed)
    clips = [sample_clips("training", count, frames, (CROP, CROP), generator) * 2 - 1 for count, frames in START]
    levels = _linear_levels(vae.config, clips)
    groups, latent = vae.config.norm_groups, vae.config.latent_channels

    _route(vae.encoder.conv_in, _identity(3))
    for block, level in zip(vae.encoder.down_blocks, levels, strict=False):
        if hasattr(block.resnets[0], "conv_shortcut"):
            _route(block.resnets[0].conv_shortcut, _identity(level.inputs))
        taps = rearrange(level.analysis, "o (z y x i) -> o i z y x", z=level.frames, y=2, x=2)
        _route(block.downsamplers[0].conv, taps)
    _route_pairs(vae.encoder.down_blocks[-1].resnets[0].conv_shortcut, latent, groups)

    _route(vae.decoder.conv_in, _identity(latent))
    for block, level in zip(vae.decoder.up_blocks, reversed(levels), strict=False):
        if hasattr(block.resnets[0], "conv_shortcut"):
            _route(block.resnets[0].conv_shortcut, _identity(level.outputs))
        sampler = block.upsamplers[0]
        corners = rearrange(level.synthesis, "(z y x i) o -> (y x z) i o 1 1 1", z=level.frames, y=2, x=2)
        for corner, taps in enumerate(corners):
            _route(sampler.upscale_conv, taps, first=corner * sampler.conv.out_channels)
        _route(sampler.conv, _identity(level.inputs))
    _route_pairs(vae.decoder.up_blocks[-1].resnets[0].conv_shortcut, 3, groups)

    _calibrate(vae, clips)


class Level(NamedTuple):
    """One downsampling as a linear map: blocks of (frames, 2, 2) cells with `inputs` channels to `outputs` channels."""

    frames: int
    inputs: int
    outputs: int
    analysis: Tensor  # (outputs, frames * 4 * inputs)
    synthesis: Tensor  # back


def _linear_levels(config: VAEConfig, clips: list[Tensor]) -> list[Level]:
    """Principal components of what every downsampler sees, fitted to clips (B, 3, T, H, W).

    The last level's variances are the square roots of the principal ones: neither do the last components drown in
    diffusion's noise, nor do errors in them count as much as errors in the first.
    """
    levels, count = [], len(config.widths) - 1
    for number, width in enumerate(config.widths[:-1]):
        last = number == count - 1
        frames = 2 if number >= count - config.temporal_halvings else 1
        blocks = [
            rearrange(
                torch.cat([clip[:, :, :1]] * (frames - 1) + [clip], 2),  # as causal convolutions see a clip's begin
                "b c (t z) (h y) (w x) -> b (z y x c) t h w",
                z=frames,
                y=2,
                x=2,
            )
            for clip in clips
        ]
        rows = torch.cat([rearrange(block, "b p t h w -> (b t h w) p") for block in blocks])
        outputs = config.latent_channels if last else min(rows.shape[1], width)
        if outputs == rows.shape[1]:
            analysis = synthesis = torch.eye(outputs)
        else:
            variances, basis = torch.linalg.eigh(rows.T @ rows / len(rows))
            basis = basis[:, -outputs:].flip(1)
            scale = variances[-outputs:].flip(0) ** 0.25 if last else torch.ones(outputs)
            analysis, synthesis = (basis / scale).T, basis * scale
        levels.append(Level(frames, clips[0].shape[1], outputs, analysis, synthesis))
        clips = [torch.einsum("kp,bpthw->bkthw", analysis, block) for block in blocks]
    return levels


def _identity(channels: int) -> Tensor:
    return torch.eye(channels)[:, :, None, None, None]


def _route(conv: CausalConv3d, taps_OIZYX: Tensor, first: int = 0) -> None:
    """Let outputs `first`, ... see inputs 0, 1, ... of the last Z frames through the taps, and nothing else.

    One tap stands at the middle of the kernel, several stand at its beginning (the downsamplers' blocks).
    """
    rows, columns, Z, Y, X = taps_OIZYX.shape
    top, left = ((kernel - 1) // 2 if Y == X == 1 else 0 for kernel in conv.kernel_size[1:])
    outputs = slice(first, first + rows)
    conv.weight[outputs] = 0
    conv.bias[outputs] = 0
    conv.weight[outputs, :columns, -Z:, top : top + Y, left : left + X] = taps_OIZYX


def _route_pairs(conv: CausalConv3d, count: int, groups: int, constant: float = 8.0) -> None:
    """Deal the first `count` inputs out to the groups of the coming norm, each as the pair +x, -x.

    silu(x) - silu(-x) = x, so what follows norm and SiLU can be linear, and pairs have mean zero. A pair of constants
    in every group keeps the norm's divisor from following the content.
    """
    for i, plus in enumerate(_pair_places(count, conv.out_channels, groups)):
        conv.weight[plus : plus + 2] = 0
        conv.bias[plus : plus + 2] = 0
        conv.weight[plus : plus + 2, i, 0, 0, 0] = torch.tensor([1.0, -1.0])
    size = conv.out_channels // groups
    for end in range(size, conv.out_channels + 1, size):
        conv.weight[end - 2 : end] = 0
        conv.bias[end - 2 : end] = torch.tensor([constant, -constant])


def _pair_places(count: int, channels: int, groups: int) -> list[int]:
    """Where the positive halves of the pairs stand."""
    return [i % groups * (channels // groups) + 2 * (i // groups) for i in range(count)]


def _calibrate(vae: VideoVAE, clips: list[Tensor]) -> None:
    """Fit both last layers by least squares, so that norm and SiLU before them are undone."""
    encoder, decoder, latent = vae.encoder, vae.decoder, vae.config.latent_channels
    places = _pair_places(latent, vae.config.widths[-1], vae.config.norm_groups)
    inputs, components = [], []
    for hidden in clips:
        hidden = encoder.conv_in(hidden)
        for block in encoder.down_blocks:
            hidden = block(hidden, None)
        components.append(hidden[:, places])
        inputs.append(F.silu(encoder.conv_norm_out(encoder.mid_block(hidden, None))))
    _fit(encoder.conv_out, inputs, components)
    encoder.conv_out.weight[latent:] *= 0.1
    encoder.conv_out.bias[latent:] = -6  # a narrow posterior
    inputs = []
    for hidden in components:
        hidden = decoder.mid_block(decoder.conv_in(hidden), None)
        for block in decoder.up_blocks:
            hidden = block(hidden, None)
        inputs.append(F.silu(decoder.conv_norm_out(hidden)))
    _fit(decoder.conv_out, inputs, clips)


def _fit(conv: CausalConv3d, inputs: list[Tensor], targets: list[Tensor]) -> None:
    """The first output channels by least squares on all input channels at the same place, over (B, C, T, H, W)."""
    rows, wanted = (
        torch.cat([rearrange(part, "B C T H W -> (B T H W) C") for part in parts]).double()
        for parts in (inputs, targets)
    )
    rows = torch.cat([rows, torch.ones(len(rows), 1)], 1)
    ridge = 1e-6 * len(rows) * torch.eye(rows.shape[1], dtype=torch.float64)
    solution = torch.linalg.solve(rows.T @ rows + ridge, rows.T @ wanted).float()
    _route(conv, solution[:-1].T[:, :, None, None, None])
    conv.bias[: solution.shape[1]] = solution[-1]


def codec_loss(vae: VideoVAE, step: int, generator: torch.Generator) -> dict[str, Tensor]:
    """One batch's losses: mean absolute error of pixels in [-1, 1], and the KL divergence per latent number."""
    batch, frames = BATCHES[step % len(BATCHES)]
    video = sample_clips("training", batch, frames, (CROP, CROP), generator) * 2 - 1
    video = video.to(next(vae.parameters()).device)
    mean, log_variance = vae.posterior(video)
    noise = torch.randn(mean.shape, generator=generator).to(mean)
    reconstruction = vae.decode(mean + (0.5 * log_variance).exp() * noise)
    l1 = (reconstruction - video).abs().mean()
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    return {"loss": l1 + KL_WEIGHT * kl, "l1": l1, "kl": kl}


@torch.no_grad()
def latent_scale(vae: VideoVAE, batches: int = 16) -> float:
    """1 / standard deviation of training latents: times this, latents have unit variance as diffusion expects."""
    generator = torch.Generator().manual_seed(12)
    clips = [sample_clips("training", 8, 5, (CROP, CROP), generator) for _ in range(batches)]
    latents = torch.cat([vae.encode(clip * 2 - 1, generator=generator) for clip in clips])
    return 1 / latents.std().item()
