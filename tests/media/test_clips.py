"""The bundled pictures, the clips made from them, and who may see what."""

import pytest
import torch

from seedvr2_lab.media import clips
from seedvr2_lab.media.clips import EVALUATION, TRAINING, camera_clip, load_picture, procedural_picture, sample_clips


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_the_parts_do_not_overlap():
    assert not set(EVALUATION) & set(TRAINING)
    for whole, train, held_out in zip(
        map(load_picture, TRAINING), clips.pictures("training"), clips.pictures("validation"), strict=True
    ):
        assert torch.equal(torch.cat([train, held_out], 2), whole)
        assert held_out.shape[2] == pytest.approx(whole.shape[2] / 4, abs=1)


@pytest.mark.parametrize("frames", [1, 5])
def test_clips_are_colour_in_the_unit_range_and_decided_by_the_seed(frames):
    first, again, other = (sample_clips("training", 4, frames, (48, 64), generator(seed)) for seed in (0, 0, 1))
    assert first.shape == (4, 3, frames, 48, 64) and first.min() >= 0 and first.max() <= 1
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_a_flight_over_a_ramp_shows_the_camera_path():
    """On a picture whose red is x and green is y, colours are positions: straight paths have no acceleration."""
    H, W = 300, 400
    y, x = torch.meshgrid(torch.arange(H) / H, torch.arange(W) / W, indexing="ij")
    clip = camera_clip(torch.stack([x, y, x]), 9, (40, 40), generator(5))
    center = clip[:2, :, 20, 20]
    assert (center[:, 2:] - 2 * center[:, 1:-1] + center[:, :-2]).abs().max() < 2e-3
    pixels_across = (clip[0, :, 20, 39] - clip[0, :, 20, 0]) * W
    assert pixels_across.max() <= 40  # at most one picture pixel per clip pixel: nothing aliases


@pytest.mark.parametrize("seed", range(6))
def test_procedural_pictures_have_contrast(seed):
    picture = procedural_picture(seed)
    assert picture.shape == (3, 320, 320) and picture.min() >= 0 and picture.max() <= 1
    assert picture.std() > 0.05 and torch.equal(picture, procedural_picture(seed))
