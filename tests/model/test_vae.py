"""The VAE against the published network's outputs, and its own promises: causal, the same result on all ways through
the network, bounded memory, pictures as clips."""

import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F

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


@pytest.mark.parametrize(("chunk", "limit"), [(None, 2**11), (1, 2**11), (None, 2**8)])
@torch.no_grad()
def test_large_frames_in_small_areas_give_the_published_result(published, golden, chunk, limit):
    tensors = golden("vae_a_frames5.safetensors").tensors
    whole = [published.posterior(tensors["in.video"], chunk)[0], published.decode(tensors["in.latent"], chunk)]
    published.spare_memory(limit=limit)
    split = [published.posterior(tensors["in.video"], chunk)[0], published.decode(tensors["in.latent"], chunk)]
    for ours, unsplit, name in zip(split, whole, ["encode_mean", "decode"], strict=True):
        torch.testing.assert_close(ours, tensors[f"out.{name}"].reshape(ours.shape), atol=2e-5, rtol=0)
        torch.testing.assert_close(ours, unsplit, atol=1e-5, rtol=0)


@pytest.mark.parametrize("autocast", [False, True])
@torch.no_grad()
def test_bfloat16_is_as_good_as_the_published_network_in_it(published, golden, autocast):
    tensors = golden("vae_a_frames9.safetensors").tensors
    kind = torch.float32 if autocast else torch.bfloat16
    published.to(kind)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        mean = published.encode(tensors["in.video"].to(kind), sample=False)
        video = published.decode(tensors["in.latent"].to(kind))
    for ours, name in [(mean, "encode_mean"), (video, "decode")]:
        theirs = tensors[f"out.{name}"].reshape(ours.shape)
        assert (ours.float() - theirs).norm() / theirs.norm() < 0.025  # the published network itself: 0.017


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


@pytest.mark.parametrize("pieces", [[13], [1, 1, 4, 7], [5, 8], [2, 2, 2, 2, 2, 3]])
@torch.no_grad()
def test_a_clip_may_arrive_in_any_pieces(pieces):
    torch.manual_seed(0)
    vae = VideoVAE(SMALL)
    video = torch.randn(2, 3, 13, 16, 24)
    latent = torch.cat(list(vae.encode_stream(video.split(pieces, 2))), 2)
    torch.testing.assert_close(latent, vae.encode(video, sample=False), atol=1e-6, rtol=1e-6)
    decoded = torch.cat(list(vae.decode_stream(latent.split([1, 3], 2))), 2)
    torch.testing.assert_close(decoded, vae.decode(latent), atol=1e-6, rtol=1e-6)


def test_a_stream_delivers_before_it_has_read_on():
    vae = VideoVAE(SMALL).requires_grad_(False)
    read = []

    def pieces(source):
        for frame in source.split(1, 2):
            read.append(frame)
            yield frame

    stream = vae.encode_stream(pieces(torch.randn(1, 3, 9, 16, 24)))
    assert [len(read) for _ in stream] == [1, 5, 9]
    read.clear()
    stream = vae.decode_stream(pieces(torch.randn(1, 16, 3, 4, 6)))
    assert [len(read) for _ in stream] == [1] + [2] * 4 + [3] * 4


def test_a_stream_that_ends_between_latents_is_refused():
    with pytest.raises(InputError, match="a clip of 7 frames has no latent"):
        list(VideoVAE(SMALL).encode_stream(torch.zeros(1, 3, 7, 16, 16).split(4, 2)))


PEAKS = """
from pathlib import Path
import torch
from seedvr2_lab.model.vae import VAEConfig, VideoVAE

torch.set_num_threads(1)
vae = VideoVAE(VAEConfig(widths=(16, 16), resnets=1, temporal_halvings=1, norm_groups=4, mid_attention=False))
vae.requires_grad_(False)


def peak(latents, size):  # kilobytes
    stream = vae.decode_stream(torch.zeros(1, 16, 1, *size) for _ in range(latents))
    assert sum(1 for _ in vae.encode_stream(stream)) == latents
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])  # ru_maxrss begins at the parent's


start = peak(2, (8, 8))  # with all that is loaded at the first use
print(peak(3, (96, 128)) - start, peak(24, (96, 128)) - start)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, sets glibc's malloc")
def test_memory_does_not_grow_with_the_clip():
    settings = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # what tensors free goes back at once: no waste of malloc's counts
    run = subprocess.run(
        [sys.executable, "-c", PEAKS], capture_output=True, text=True, check=True, env=os.environ | settings
    )
    short, eight_times = map(int, run.stdout.split())
    assert short > 50_000  # kilobytes: not lost in the interpreter's own
    assert eight_times <= 1.1 * short


@torch.no_grad()
def test_the_upsampler_never_holds_all_its_channels_at_once(monkeypatch):
    sizes, conv2d = [], F.conv2d
    monkeypatch.setattr(F, "conv2d", lambda *args: sizes.append(conv2d(*args).numel()) or conv2d(*args))
    vae = VideoVAE(VAEConfig(widths=(8, 8, 8), resnets=1, norm_groups=4))
    vae.decode(torch.zeros(1, 16, 3, 8, 8))
    assert max(sizes) == 8 * 32 * 32  # one frame of the full size


def test_recomputing_gives_the_same_gradients_and_keeps_less():
    torch.manual_seed(0)
    vae = VideoVAE(SMALL).double()
    video = torch.randn(1, 3, 5, 16, 24, dtype=torch.float64)

    def run(recompute):
        kept = []
        vae.spare_memory(recompute=recompute)
        with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.nbytes) or x, lambda x: x):
            loss = vae.decode(vae.encode(video, sample=False)).square().mean()
        return sum(kept), torch.autograd.grad(loss, list(vae.parameters()))

    (kept, plain), (kept_less, again) = run(False), run(True)
    assert kept_less < kept / 4
    torch.testing.assert_close(again, plain)


def test_gradients_go_through_streams_too():
    torch.manual_seed(0)
    vae = VideoVAE(SMALL).double()
    video = torch.randn(1, 3, 9, 16, 24, dtype=torch.float64)
    whole, streamed = (
        torch.autograd.grad(
            vae.decode(vae.encode(video, sample=False, chunk=chunk), chunk).square().mean(), list(vae.parameters())
        )
        for chunk in (None, 1)
    )
    torch.testing.assert_close(streamed, whole)


@pytest.mark.slow
@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("chunk", [None, 1])
def test_the_compiler_takes_it_in_one_graph(gradients, chunk):
    vae = VideoVAE(SMALL).requires_grad_(gradients)

    def there_and_back(video):
        return vae.decode(vae.encode(video, sample=False, chunk=chunk), chunk)

    video = torch.randn(1, 3, 5, 16, 24)
    compiled = torch.compile(there_and_back, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(video), there_and_back(video))
