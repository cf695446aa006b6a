"""Trains the small video VAE: pictures and clips by turns, L1 and a light pull towards a standard normal latent.

Our choice: no perceptual and no adversarial term. The small VAE is the ruler that all ablations are read with; its
errors should be plain blur, not invented texture. The published VAE's own training is not described in the paper.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from seedvr2_lab.media.clips import sample_clips
from seedvr2_lab.model.vae import CausalConv3d, Resnet, VAEConfig, VideoVAE
from seedvr2_lab.training.loop import TrainConfig

# The start is close to an optimum: rates of 1e-4 and more first destroy it and take hundreds of steps to come back.
CODEC = TrainConfig(steps=2200, learning_rate=6e-5, warmup=200, checkpoint_every=100)
KL_WEIGHT = 1e-5  # per latent number; small enough that the posterior's noise costs no visible detail
BATCHES = ((16, 1), (4, 5), (16, 1), (4, 5), (2, 9))  # (clips, frames) of successive steps
CROP = 96


@torch.no_grad()
def initialise(vae: VideoVAE, seed: int) -> None:
    """Start as the best linear codec of single frames: principal components of square patches of training pictures.

    PyTorch's own start was 7 dB behind after 600 steps. Residual branches begin at zero. Between them the
    encoder moves pixels into channels and projects them, and the decoder goes the same way back. All other channels
    keep their random start. Clips begin as held frames.
    """
    torch.manual_seed(seed)
    vae.apply(lambda module: module.reset_parameters() if isinstance(module, CausalConv3d) else None)
    for module in vae.modules():
        if isinstance(module, Resnet):
            nn.init.zeros_(module.conv2.weight)
            nn.init.zeros_(module.conv2.bias)
    config, encoder, decoder = vae.config, vae.encoder, vae.decoder
    patches, analysis, synthesis = _principal_components(config, seed)
    components = list(range(config.latent_channels))

    # Encoder: (row, column, colour) of a patch becomes channels level by level, the last level projects.
    _route(encoder.conv_in, torch.eye(3)[:, :, None, None], outputs=range(3), inputs=range(3))
    levels, channels = len(config.widths) - 1, 3
    for level, block in enumerate(encoder.down_blocks):
        if level == levels:
            _route_pairs(block.resnets[0].conv_shortcut, config.latent_channels, config.norm_groups)
        elif hasattr(block.resnets[0], "conv_shortcut"):
            _route(
                block.resnets[0].conv_shortcut, torch.eye(channels)[:, :, None, None], range(channels), range(channels)
            )
        if level < levels:
            unfold = torch.eye(4 * channels).view(2, 2, channels, 4 * channels).permute(3, 2, 0, 1)
            taps = torch.einsum("kj,jcyx->kcyx", analysis, unfold) if level == levels - 1 else unfold
            _route(block.downsamplers[0].conv, taps, outputs=range(len(taps)), inputs=range(channels))
            channels *= 4

    # Decoder: components become pixels level by level.
    _route(decoder.conv_in, torch.eye(config.latent_channels)[:, :, None, None], outputs=components, inputs=components)
    inputs = config.latent_channels
    for level, block in enumerate(decoder.up_blocks):
        pixels = 3 * 4 ** (levels - level)  # channels that stand for a patch before this level's upsampling
        if level == levels:
            _route_pairs(block.resnets[0].conv_shortcut, 3, config.norm_groups)
            break
        if hasattr(block.resnets[0], "conv_shortcut"):
            _route(block.resnets[0].conv_shortcut, torch.eye(pixels)[:, :, None, None], range(pixels), range(pixels))
        sampler = block.upsamplers[0]
        width, quarter = sampler.conv.out_channels, pixels // 4
        fold = synthesis if level == 0 else torch.eye(pixels)
        for corner in range(4):
            for copy in range(sampler.frames):
                first = (corner * sampler.frames + copy) * width
                rows = fold[corner * quarter : (corner + 1) * quarter]
                _route(sampler.upscale_conv, rows[:, :, None, None], range(first, first + quarter), range(inputs))
        _route(sampler.conv, torch.eye(quarter)[:, :, None, None], range(quarter), range(quarter))
        inputs = quarter

    _calibrate(vae, patches)


def _principal_components(config: VAEConfig, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sample pictures (B, 3, 1, H, W), and the matrices from a patch to its components (k, p) and back (p, k).

    The components' variances are the square roots of the principal ones: neither do the last ones drown in
    diffusion's noise, nor do errors in them count as much as errors in the first.
    """
    side = config.spatial_factor
    pictures = sample_clips("training", 256, 1, (CROP, CROP), torch.Generator().manual_seed(seed)) * 2 - 1
    cells, levels = pictures.squeeze(2), len(config.widths) - 1
    for _ in range(levels):
        cells = rearrange(cells, "b c (h y) (w x) -> b (y x c) h w", y=2, x=2)
    rows = rearrange(cells, "b p h w -> (b h w) p")
    assert rows.shape[1] == 3 * side**2
    variances, basis = torch.linalg.eigh(rows.T @ rows / len(rows))
    order = variances.argsort(descending=True)[: config.latent_channels]
    scale = variances[order] ** 0.25
    return pictures, (basis[:, order] / scale).T, basis[:, order] * scale


def _route(conv: CausalConv3d, taps_OIYX: Tensor, outputs: Sequence[int], inputs: Sequence[int]) -> None:
    """Let `outputs` see `inputs` of the present frame through `taps`, and nothing else."""
    rows, columns, Y, X = taps_OIYX.shape
    _, kernel_y, kernel_x = conv.kernel_size
    top, left = ((kernel_y - Y) // 2, (kernel_x - X) // 2) if Y == X == 1 else (0, 0)
    for o in range(rows):
        conv.weight[outputs[o]] = 0
        conv.bias[outputs[o]] = 0
        for i in range(columns):
            conv.weight[outputs[o], inputs[i], -1, top : top + Y, left : left + X] = taps_OIYX[o, i]


def _route_pairs(conv: CausalConv3d, count: int, groups: int, constant: float = 2.0) -> None:
    """Deal the first `count` inputs out to the groups of the coming norm, each as the pair +x, -x.

    silu(x) - silu(-x) = x, so what follows norm and SiLU can be linear, and pairs have mean zero. A pair of constants
    in every group keeps the norm's divisor from following the content.
    """
    for i, plus in enumerate(_pair_places(count, conv.out_channels, groups)):
        _route(conv, torch.tensor([1.0, -1.0]).view(2, 1, 1, 1), outputs=(plus, plus + 1), inputs=(i,))
    size = conv.out_channels // groups
    for end in range(size, conv.out_channels + 1, size):
        conv.weight[end - 2 : end] = 0
        conv.bias[end - 2 : end] = torch.tensor([constant, -constant])


def _pair_places(count: int, channels: int, groups: int) -> list[int]:
    """Where the positive halves of the pairs stand."""
    return [i % groups * (channels // groups) + 2 * (i // groups) for i in range(count)]


def _calibrate(vae: VideoVAE, pictures: Tensor) -> None:
    """Fit both last layers so that norm and SiLU, shifted to where it is straight, are undone."""
    encoder, decoder, channels = vae.encoder, vae.decoder, vae.config.latent_channels
    hidden = encoder.conv_in(pictures)
    for block in encoder.down_blocks:
        hidden = block(hidden, None)
    targets = hidden[:, _pair_places(channels, hidden.shape[1], vae.config.norm_groups)]
    _fit(encoder.conv_out, F.silu(encoder.conv_norm_out(encoder.mid_block(hidden, None))), targets)
    encoder.conv_out.weight[channels:] *= 0.1
    encoder.conv_out.bias[channels:] = -6  # a narrow posterior
    hidden = decoder.mid_block(decoder.conv_in(targets), None)
    for block in decoder.up_blocks:
        hidden = block(hidden, None)
    _fit(decoder.conv_out, F.silu(decoder.conv_norm_out(hidden)), pictures)


def _fit(conv: CausalConv3d, inputs_BCTHW: Tensor, targets_BCTHW: Tensor) -> None:
    """Least squares of the first output channels on all input channels at the same place."""
    rows = rearrange(inputs_BCTHW, "B C T H W -> (B T H W) C")
    rows = torch.cat([rows, torch.ones(len(rows), 1)], 1).double()
    targets = rearrange(targets_BCTHW, "B C T H W -> (B T H W) C").double()
    ridge = 1e-6 * len(rows) * torch.eye(rows.shape[1], dtype=torch.float64)
    solution = torch.linalg.solve(rows.T @ rows + ridge, rows.T @ targets).float()
    count = targets.shape[1]
    _route(conv, solution[:-1].T[:, :, None, None], range(count), range(inputs_BCTHW.shape[1]))
    conv.bias[:count] = solution[-1]


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
