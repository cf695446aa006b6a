"""The VAE against the published network's outputs, and its own promises: causal, chunked alike, pictures as clips."""

import pytest
import torch

from seedvr2_lab.console import InputError
from seedvr2_lab.model.vae import VAEConfig, VideoVAE

SMALL = VAEConfig(widths=(8, 16, 16), resnets=1, norm_groups=4, mid_attention=False)


@pytest.fixture
def published(golden):
    weights = golden("vae_a_weights.safetensors")
    vae = VideoVAE(VAEConfig.from_published(weights.meta["config"]))
    vae.load_state_dict(weights.tensors, strict=True)
    return vae.eval()


@pytest.mark.parametrize("frames", [1, 5, 9, 17])
@pytest.mark.parametrize("chunk", [None, 1, 2, 4])
@torch.no_grad()
def test_matches_the_published_network(published, golden, frames, chunk):
    tensors = golden(f"vae_a_frames{frames}.safetensors").tensors
    mean, log_variance = published.posterior(tensors["in.video"], chunk)
    sample = mean + (0.5 * log_variance).exp() * tensors["in.posterior_noise"]
    video = published.decode(tensors["in.latent"], chunk)
    for ours, name in [
        (mean, "encode_mean"),
        (log_variance, "encode_logvar"),
        (sample, "encode_sample"),
        (video, "decode"),
    ]:
        torch.testing.assert_close(ours, tensors[f"out.{name}"].reshape(ours.shape), atol=2e-5, rtol=0)


def test_full_size_has_the_published_number_of_parameters():
    with torch.device("meta"):
        vae = VideoVAE()
    assert sum(p.numel() for p in vae.parameters()) == 250_648_227


@torch.no_grad()
def test_the_past_does_not_see_the_future():
    torch.manual_seed(0)
    vae = VideoVAE(SMALL)
    video = torch.randn(1, 3, 13, 16, 24)
    changed = video.clone()
    changed[:, :, 9:] = 0
    ours, theirs = vae.encode(video, sample=False), vae.encode(changed, sample=False)
    assert torch.equal(ours[:, :, :3], theirs[:, :, :3]) and not torch.equal(ours[:, :, 3], theirs[:, :, 3])
    ours, theirs = vae.decode(ours), vae.decode(theirs)
    assert torch.equal(ours[:, :, :9], theirs[:, :, :9]) and not torch.equal(ours[:, :, 9:], theirs[:, :, 9:])


def test_a_picture_and_a_still_clip_have_the_same_first_latent_and_gradients():
    torch.manual_seed(0)
    vae = VideoVAE(SMALL).double()
    picture = torch.randn(2, 3, 1, 16, 24, dtype=torch.float64)
    alone = vae.encode(picture, sample=False)  # takes the 2-D short cut
    in_clip = vae.encode(picture.expand(-1, -1, 5, -1, -1), sample=False)[:, :, :1]
    torch.testing.assert_close(alone, in_clip)
    parameters = list(vae.encoder.parameters())
    for ours, theirs in zip(
        torch.autograd.grad(alone.square().sum(), parameters),
        torch.autograd.grad(in_clip.square().sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(("shape", "word"), [((1, 3, 4, 16, 16), "4k + 1"), ((1, 3, 5, 18, 16), "multiples of 4")])
def test_sizes_without_a_latent_are_refused_in_one_line(shape, word):
    with pytest.raises(InputError) as error:
        VideoVAE(SMALL).encode(torch.zeros(shape))
    assert word in str(error.value) and "\n" not in str(error.value)
