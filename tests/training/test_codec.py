"""The VAE's training: where it starts, and that everything in it learns."""

import pytest
import torch
from einops import rearrange

from seedvr2_lab.config import vae_config
from seedvr2_lab.media.clips import sample_clips
from seedvr2_lab.metrics import psnr
from seedvr2_lab.model.vae import VAEConfig, VideoVAE
from seedvr2_lab.training.codec import codec_loss, initialise, latent_scale


@pytest.fixture(scope="module")
def started():
    vae = VideoVAE(vae_config("small"))
    initialise(vae, seed=0)
    return vae


@torch.no_grad()
def reconstruction(vae, frames=1, components=None):
    """Mean PSNR of validation clips: of the VAE, or (pictures) of components fitted to these very crops."""
    clips = sample_clips("validation", 12, frames, (64, 64), torch.Generator().manual_seed(1))
    if components is None:
        outputs = vae.to_clips(vae.to_latent(clips)).clamp(0, 1)
    else:
        patches = rearrange(clips, "b c 1 (h y) (w x) -> (b h w) (c y x)", y=4, x=4)
        _, _, basis = torch.linalg.svd(patches, full_matrices=False)
        patches = patches @ basis[:components].T @ basis[:components]
        outputs = rearrange(patches, "(b h w) (c y x) -> b c 1 (h y) (w x)", b=12, h=16, y=4, x=4)
    return sum(psnr(*pair) for pair in zip(outputs, clips, strict=True)) / len(clips)


def test_it_starts_close_to_the_best_linear_codec(started):
    torch.manual_seed(0)
    untouched, ours = reconstruction(VideoVAE(vae_config("small"))), reconstruction(started)
    assert untouched < 15 < 30 < ours < reconstruction(started, components=16)
    assert reconstruction(started, frames=5) > 30


def test_the_start_fits_other_sizes_too():
    vae = VideoVAE(VAEConfig(widths=(16, 48, 64, 96), resnets=2, norm_groups=4, mid_attention=False))
    initialise(vae, seed=0)
    assert reconstruction(vae) > 20  # 16 numbers for 8x8 pixels


@pytest.mark.parametrize("step", range(5))
def test_every_weight_learns_from_clips_and_pictures(started, step):
    with torch.random.fork_rng():
        losses = codec_loss(started, step, torch.Generator().manual_seed(step))
    assert losses["loss"] > losses["l1"] > 0 and losses["kl"] > 0
    started.zero_grad()
    losses["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in started.parameters())
    # Residual branches start at zero and open through their last convolutions.
    assert all(block.conv2.weight.grad.abs().max() > 0 for block in started.decoder.mid_block.resnets)


def test_latents_times_the_scale_have_unit_variance(started):
    scale = latent_scale(started, batches=2)
    clips = sample_clips("training", 8, 5, (96, 96), torch.Generator().manual_seed(12))
    assert (started.encode(clips * 2 - 1).std() * scale).item() == pytest.approx(1, abs=0.15)
