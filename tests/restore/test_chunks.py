"""Cutting and joining, noise that belongs to places, tiles, strength, steps: clips in memory."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from seedvr2_lab.console import InputError
from seedvr2_lab.media.degrade import resize
from seedvr2_lab.model.vae import VideoVAE
from seedvr2_lab.restore import Cancelled, Settings
from seedvr2_lab.restore.chunks import cut, join
from seedvr2_lab.restore.restorer import noise_at
from seedvr2_lab.restore.tiles import tiled


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 60), st.integers(0, 12), st.integers(0, 11), st.sampled_from([1, 2, 4]))
def test_cutting_and_joining_gives_every_frame_once_and_unchanged(frames, k, m, factor):
    chunk, overlap = Settings(chunk=1 + k * factor, overlap=min(m, (1 + k * factor) // 2 // factor)).lengths(factor)
    clip = torch.arange(frames, dtype=torch.float32).view(-1, 1, 1, 1)
    runs = list(join(cut(clip, chunk, overlap), overlap))
    assert_close(torch.cat([run for _, run in runs]), clip)
    assert [place for place, _ in runs] == [sum(len(run) for _, run in runs[:i]) for i in range(len(runs))]


def test_frames_of_two_chunks_go_over_in_even_steps():
    runs = [torch.full_like(chunk.frames_TCHW, i) for i, chunk in enumerate(cut(torch.zeros(10, 1, 1, 1), 7, 3))]
    joined = join(
        (chunk._replace(frames_TCHW=run) for chunk, run in zip(cut(torch.zeros(10, 1, 1, 1), 7, 3), runs, strict=True)),
        3,
    )
    assert torch.cat([run for _, run in joined]).flatten().tolist() == [0, 0, 0, 0, 0.25, 0.5, 0.75, 1, 1, 1]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 100), st.sampled_from([1, 2, 4]))
def test_chunks_are_what_the_vae_takes_and_begin_on_latent_frames(chunk, factor):
    chunk, overlap = Settings(chunk=chunk).lengths(factor)
    assert chunk == 1 or (chunk % factor == 1 % factor and (chunk - overlap) % factor == 0)
    assert overlap <= chunk // 2


def test_noise_belongs_to_places():
    whole = noise_at((4, 9, 5, 6), seed=3, first=0)
    assert torch.equal(noise_at((4, 4, 5, 6), seed=3, first=5), whole[:, 5:])
    assert not torch.equal(noise_at((4, 9, 5, 6), seed=4, first=0), whole)
    assert abs(whole.mean()) < 0.1 and whole.std() == pytest.approx(1, abs=0.1)
    flat = whole.movedim(1, 0).flatten(1)
    assert (torch.corrcoef(flat) - torch.eye(9)).abs().max() < 0.4


@settings(max_examples=12, deadline=None)
@given(st.integers(1, 24), st.integers(1, 20))
@example(17, 5)
def test_a_clip_in_chunks_has_all_its_frames(restorer, frames, chunk):
    restored = restorer(torch.rand(3, frames, 4, 5), (9, 7), chunk=chunk)
    assert restored.shape == (3, frames, 9, 7) and restored.isfinite().all()


def test_frames_far_from_a_border_are_those_of_their_chunk_alone(restorer):
    clip = torch.rand(3, 29, 8, 8)
    whole = restorer(clip, (16, 16), chunk=17, overlap=5)
    assert torch.equal(whole[:, :12], restorer(clip[:, :17], (16, 16), chunk=17)[:, :12])
    (_, second), *_ = restorer.stream(clip[:, 12:].unbind(1), (16, 16), Settings(chunk=17, overlap=5), start=12)
    assert torch.equal(whole[:, 17:24], second[5:12].transpose(0, 1))


def test_strength_mixes_the_plain_resize_and_the_model(restorer):
    clip = torch.rand(3, 5, 6, 6)
    resized = resize(clip.transpose(0, 1), (13, 15)).transpose(0, 1)
    full = restorer(clip, (13, 15))
    assert torch.equal(restorer(clip, (13, 15), strength=0), resized)
    assert_close(restorer(clip, (13, 15), strength=0.25), resized + 0.25 * (full - resized))
    assert not torch.equal(full, resized)


def test_steps_and_guidance_reach_the_model(restorer):
    clip, calls = torch.rand(3, 5, 6, 6), []
    hook = restorer.generator.dit.register_forward_hook(lambda *_: calls.append(1))
    try:
        one = restorer(clip, (8, 8))
        three = restorer(clip, (8, 8), steps=3)
        guided = restorer(clip, (8, 8), steps=3, guidance=2.0)
    finally:
        hook.remove()
    assert len(calls) == 1 + 3 + 6
    assert not torch.equal(one, three) and not torch.equal(three, guided)


def test_cancelling_is_noticed_between_calls_of_the_networks(restorer):
    asked = []

    def check():
        asked.append(1)
        if len(asked) == 4:
            raise Cancelled

    with pytest.raises(Cancelled):
        list(restorer.stream(torch.rand(9, 3, 6, 6), (8, 8), Settings(), check=check))


# --- Tiles ---


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(4, 64), st.sampled_from([0.25, 1, 4]))
def test_tiles_of_a_network_without_context_are_the_whole(height, width, tile, zoom):
    unit = max(1, round(1 / zoom))
    x = torch.rand(1, 2, 1, height * unit, width * unit, dtype=torch.float64)

    def network(part):
        return torch.nn.functional.interpolate(part.squeeze(2), scale_factor=zoom, mode="nearest").unsqueeze(2)

    assert_close(tiled(network, x, tile * unit, zoom), network(x), rtol=1e-6, atol=1e-6)


def test_tiled_restoration_is_near_and_the_transformer_sees_whole_frames(restorer):
    clip, grids = torch.rand(3, 3, 40, 50), []
    hook = restorer.generator.dit.register_forward_hook(lambda _, inputs, __: grids.append(inputs[0].shape[-2:]))
    try:
        whole, tiles = (restorer(clip, (160, 200), tile=tile) for tile in (None, 96))
    finally:
        hook.remove()
    assert grids[0] == grids[1]
    assert whole.shape == tiles.shape and 0 < (whole - tiles).abs().mean() < 0.02


@pytest.mark.parametrize(
    "wrong",
    [
        dict(seed=-1), dict(steps=0), dict(steps=1001), dict(guidance=float("nan")), dict(guidance=-1.0),
        dict(strength=1.1), dict(strength=-0.1), dict(strength=float("nan")), dict(color="sepia"), dict(chunk=0),
        dict(overlap=-1), dict(tile=63),
    ],
)  # fmt: skip
def test_settings_that_cannot_be(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        Settings(**wrong)


def test_an_overlap_of_more_than_half_a_chunk_is_refused(restorer):
    with pytest.raises(InputError, match=r"overlap 9 is too long for chunks of 17"):
        restorer(torch.rand(3, 3, 4, 4), (8, 8), overlap=9)


def test_guidance_needs_a_negative_text(restorer):
    poor = type(restorer)(restorer.generator._replace(negative_text=None), VideoVAE(restorer.vae.config).eval())
    with pytest.raises(InputError, match="negative text"):
        poor(torch.rand(3, 1, 4, 4), (8, 8), guidance=2.0)
