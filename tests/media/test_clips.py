"""The bundled pictures, the clips made from them, and who may see what."""

import pytest
import torch
import torch.nn.functional as F

from seedvr2_lab.console import InputError
from seedvr2_lab.media import clips
from seedvr2_lab.media.clips import (
    EVALUATION,
    TRAINING,
    camera_clip,
    camera_path,
    load_picture,
    procedural_picture,
    sample_clips,
    varied,
)


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


def test_varied_clips_are_the_same_places_turned_shrunk_and_recoloured():
    """Of a source with a red ramp to the right, blue at a third: all eight ways to turn it and all colours are seen."""

    def ramps(batch, frames, size, generator):
        seen.append(size)
        ramp = torch.linspace(0, 1, size[1]).expand(frames, *size)
        return torch.stack([ramp, torch.full_like(ramp, 0), torch.full_like(ramp, 1 / 3)])[None].repeat(
            batch, 1, 1, 1, 1
        )

    seen, g = [], generator()
    found = varied(ramps)(200, 3, (16, 16), g)
    assert found.shape == (200, 3, 3, 16, 16) and found.min() >= 0 and found.max() <= 1
    sides = {size[0] for size in seen}
    assert min(sides) == 16 and max(sides) == 32 and all(h == w for h, w in seen)
    ways = set()
    for clip in found:
        assert all(torch.equal(frame, clip[:, 0]) for frame in clip.unbind(1))  # a clip is one thing
        channels = clip[:, 0].flatten(1)
        order = tuple(channels.std(1).argsort().tolist())
        red = clip[order[-1], 0]
        down, right = red[-1, 0] - red[0, 0], red[0, -1] - red[0, 0]
        ways.add(((down > 0.5).item() - (down < -0.5).item(), (right > 0.5).item() - (right < -0.5).item()))
    assert ways == {(1, 0), (-1, 0), (0, 1), (0, -1)}
    means = found.mean((2, 3, 4))
    assert len({tuple(row.argsort().tolist()) for row in means}) == 6
    assert torch.equal(found, varied(ramps)(200, 3, (16, 16), generator()))
    assert varied(ramps, 1.0)(2, 1, (16, 24), g).shape == (2, 3, 1, 16, 24) and seen[-1] == (16, 24)


def test_a_crop_larger_than_procedural_pictures_is_of_photographs():
    assert sample_clips("training", 16, 1, (40, 340), torch.Generator().manual_seed(0)).shape[-1] == 340


def test_a_crop_larger_than_every_picture_is_refused():
    with pytest.raises(InputError, match="no validation picture is as large as 4000x3000: ask for"):
        sample_clips("validation", 1, 1, (3000, 4000), generator())


def test_a_flight_over_a_ramp_shows_the_camera_path():
    """On a picture whose red is x and green is y, colours are positions: straight paths have no acceleration."""
    H, W = 300, 400
    y, x = torch.meshgrid(torch.arange(H) / H, torch.arange(W) / W, indexing="ij")
    clip = camera_clip(torch.stack([x, y, x]), 9, (40, 40), generator(5))
    center = clip[:2, :, 20, 20]
    assert (center[:, 2:] - 2 * center[:, 1:-1] + center[:, :-2]).abs().max() < 2e-3
    pixels_across = (clip[0, :, 20, 39] - clip[0, :, 20, 0]) * W
    assert pixels_across.max() <= 40  # at most one picture pixel per clip pixel: nothing aliases


def test_the_flow_of_a_camera_leads_to_the_same_place():
    """What a frame shows at p, the next one shows at p + flow; nan is where a frame looks beyond the picture."""
    (h, w), (H, W) = size, picture = (78, 98), (80, 100)
    path = camera_path(picture, 9, size, generator(5))
    flow, (source_y, source_x) = path.flow(size), path.sources(size)
    beyond = (source_y < 0) | (source_y > H) | (source_x < 0) | (source_x > W)
    assert beyond.any() and torch.equal(flow.isnan().any(1), beyond[:-1])

    y, x = torch.arange(h)[:, None] + flow[:, 0], torch.arange(w) + flow[:, 1]
    known = (y >= 0) & (y <= h - 1) & (x >= 0) & (x <= w - 1)
    grid = torch.stack([x * 2 / (w - 1) - 1, y * 2 / (h - 1) - 1], -1)
    for source in (source_y, source_x):
        there = F.grid_sample(source[1:, None], grid.nan_to_num(), align_corners=True)[:, 0]
        assert (there - source[:-1])[known].abs().max() < 1e-3
    assert known.double().mean() > 0.5 and flow[:, :, h // 2, w // 2].norm(dim=1).min() > 0.5


@pytest.mark.parametrize("seed", range(6))
def test_procedural_pictures_have_contrast(seed):
    picture = procedural_picture(seed)
    assert picture.shape == (3, 320, 320) and picture.min() >= 0 and picture.max() <= 1
    assert picture.std() > 0.05 and torch.equal(picture, procedural_picture(seed))
