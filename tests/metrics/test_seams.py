"""Planted seams of known strength, across space and time, and restorers whose windows leave a known trace."""

import math

import pytest
import torch
from torch import Tensor

from seedvr2_lab.console import InputError
from seedvr2_lab.metrics import border_excess, seam_index, shift_consistency

ROWS, COLUMNS = (24, 48), (32, 64)


def with_seams(picture: Tensor, height: float) -> Tensor:
    """Every second window is brighter by `height`."""
    row, column = (
        torch.bucketize(torch.arange(n), torch.tensor(b), right=True) for n, b in ((72, ROWS), (96, COLUMNS))
    )
    return picture + height * ((row[:, None] + column) % 2)


def test_noise_alone_shows_no_seam(picture, noisy):
    indices = seam_index(noisy(picture, 0.05), picture, noisy(picture, 0.1, seed=2), (ROWS, COLUMNS))
    assert indices == pytest.approx((1, 1), abs=0.15)


def test_planted_seams_are_found_and_ordered(picture, noisy):
    unwindowed = noisy(picture, 0.05, seed=2)
    levels = [
        seam_index(with_seams(noisy(picture, 0.05), h), picture, unwindowed, (ROWS, COLUMNS))
        for h in (0, 0.03, 0.06, 0.12)
    ]
    for axis in zip(*levels, strict=True):
        assert list(axis) == sorted(axis)
        assert axis[-1] > 1.5 * axis[0]


def test_an_edge_of_the_content_under_a_border_is_divided_out(picture, noisy):
    edge = 0.3 * (torch.arange(96) >= COLUMNS[0]).float()
    blurred_edge = picture + edge * 0.5  # both restorations get the edge equally wrong
    index = seam_index(noisy(blurred_edge, 0.05), picture + edge, noisy(blurred_edge, 0.05, 2), (ROWS, COLUMNS))
    assert index == pytest.approx((1, 1), abs=0.15)


def test_an_axis_without_borders_has_no_index(picture, noisy):
    rows, columns = seam_index(noisy(picture, 0.05), picture, noisy(picture, 0.1), ((), COLUMNS))
    assert math.isnan(rows) and columns > 0


@pytest.mark.parametrize("borders", [((20,), ()), ((), (0,)), ((72,), ())])
def test_borders_off_the_token_grid_are_refused(picture, borders):
    with pytest.raises(InputError, match="multiples of 8"):
        seam_index(picture + 0.1, picture, picture + 0.1, borders)


def test_an_error_that_is_larger_beside_borders_has_that_excess(picture):
    """The error is five times as large on one side, and alternates in sign: the two sides and the jump have three."""
    sign = (-1.0) ** torch.arange(96)
    size = torch.ones(96)
    size[[31, 63]] = 5
    reference = picture.double()
    excess = border_excess(reference + 0.01 * sign * size, reference, reference + 0.05 * sign, COLUMNS, "w", 8)
    assert excess == pytest.approx((3, 3))


def test_chunks_that_differ_in_brightness_jump_in_time(picture, noisy):
    reference = picture[:, None].expand(-1, 12, -1, -1)
    unwindowed = noisy(reference, 0.05, seed=2)
    levels = []
    for step in (0, 0.02, 0.05, 0.1):
        chunks = step * (torch.arange(12) // 4 % 2)[:, None, None]
        levels.append(border_excess(noisy(reference, 0.05) + chunks, reference, unwindowed, (4, 8), "t"))
    jumps = [level.jump for level in levels]
    assert jumps[0] == pytest.approx(1, abs=0.02) and jumps == sorted(jumps) and jumps[-1] > 1.5
    assert math.isnan(border_excess(picture, picture, picture, (), "t").jump)  # a picture has no chunks


def enlarge(low: Tensor) -> Tensor:
    return low.repeat_interleave(4, -1).repeat_interleave(4, -2)


def window_grid(height: int, width: int) -> tuple[range, range]:
    return range(32, height, 32), range(32, width, 32)


def test_a_restorer_without_windows_is_consistent(picture):
    found = shift_consistency(enlarge, picture[:, None], (2, 3), window_grid)
    assert found.overall == 0 and set(found.by_distance.values()) == {0}


def test_differences_are_where_the_windows_leave_a_trace(picture):
    """Four pixels on either side of each border are brighter by 0.1: the sixteen that a border of either run reaches
    differ, unless both do."""

    def restore(low: Tensor) -> Tensor:
        restored = enlarge(low)
        rows, columns = window_grid(*restored.shape[-2:])
        for at in rows:
            restored[..., at - 4 : at + 4, :] += 0.1
        for at in columns:
            restored[..., at - 4 : at + 4] += 0.1
        return restored

    found = shift_consistency(restore, picture[:, None], (4, 4), window_grid, group=4)
    beside, *away = found.by_distance.values()
    assert min(found.by_distance) == 0 and beside > 0.09 and max(away) == pytest.approx(0, abs=1e-6)
    assert 0 < found.overall < beside


def test_what_the_edges_of_the_frame_do_is_not_laid_to_the_windows(picture):
    def restore(low: Tensor) -> Tensor:
        restored = enlarge(low)
        restored[..., :10] += 0.1
        return restored

    found = shift_consistency(restore, picture[:, None], (4, 4), window_grid)
    assert found.overall > 0 and set(found.by_distance.values()) == {0}


@pytest.mark.parametrize("shift", [(0, 0), (-1, 2), (36, 0)])
def test_shifts_that_leave_nothing_to_compare_are_refused(picture, shift):
    with pytest.raises(InputError, match="below half"):
        shift_consistency(enlarge, picture[:, None], shift, window_grid)
