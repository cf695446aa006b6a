"""What chunks and tiles leave behind on real footage, measured against a restoration in one pass; 1 is no trace."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from seedvr2_lab.media.degrade import Degradation, degrade
from seedvr2_lab.media.video import VideoReader
from seedvr2_lab.metrics import border_excess
from seedvr2_lab.restore import Restorer, Settings
from seedvr2_lab.restore.tiles import _spans

FOOTAGE = Path(__file__).parents[2] / "../shared/clips/nasa_13013.mp4"
FRAMES = 41  # two borders between chunks of 17 frames

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not FOOTAGE.exists(), reason="the real footage is not beside the repository"),
]


def footage(frames: int, rows: slice, columns: slice) -> tuple[Tensor, Tensor]:
    """A stretch in which the camera moves, (3, T, H, W), and its low-quality twin."""
    reader = VideoReader(FOOTAGE, stream=0)
    pixels_THWC = torch.stack([torch.from_numpy(frame) for frame, _ in reader.frames(203, 203 + frames)])
    high = pixels_THWC.permute(3, 0, 1, 2)[:, :, rows, columns] / 255
    return high, degrade(high, torch.Generator().manual_seed(0), Degradation(scale=2))


def test_chunks_leave_no_jump_in_time():
    """At every frame of an overlap by itself, and at all of them together."""
    high, low = footage(FRAMES, slice(40, 104), slice(96, 176))
    restorer, size = Restorer.load("tiny"), tuple(high.shape[2:])
    one_pass, chunks = (restorer(low, size, chunk=chunk) for chunk in (FRAMES, Settings().chunk))
    length, overlap = Settings().lengths(restorer.vae.config.temporal_factor)
    starts = range(length - overlap, FRAMES - overlap, length - overlap)
    indices = {
        k: border_excess(chunks, high, one_pass, [start + k for start in starts], "t").jump for k in range(overlap + 1)
    }
    whole = border_excess(chunks, high, one_pass, [start + k for start in starts for k in indices], "t")
    print(f"seam index in time {whole.jump:.3f}, by frame of the overlap {indices}, error {whole.error:.3f}")
    assert whole.jump <= 1.1 and max(indices.values()) <= 1.1
    assert whole.error <= 1.02


def test_tiles_leave_no_seam():
    """At the edges of all tiles and at the pixels between, where they are blended."""
    high, low = footage(3, slice(24, 152), slice(64, 256))
    restorer, size, tile = Restorer.load("tiny"), tuple(high.shape[2:]), 80
    untiled, tiles = (restorer(low, size, tile=side) for side in (None, tile))
    space = restorer.vae.config.spatial_factor
    for axis, extent in zip("hw", size, strict=True):
        edges = {space * edge for span in _spans(extent // space, tile // space, 1) for edge in span} - {0, extent}
        jump = border_excess(tiles, high, untiled, sorted(edges), axis, spacing=space).jump
        print(f"seam index at tiles along {axis}: {jump:.3f}")
        assert jump <= 1.05
