"""The window partition: equal to the published lists, and a partition for every size."""

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from seedvr2_lab.console import InputError
from seedvr2_lab.model.windows import WindowScheme, partition, window_size


def as_rows(windows):
    return [[bound for cell in window for bound in (cell.start, cell.stop)] for window in windows]


def test_every_published_list_in_order(golden):
    lists = golden("windows.json")
    groups = [lists, lists["other_num_windows"]]
    assert [len(group["cases"]) for group in groups] == [51, 6]
    for group in groups:
        scheme = WindowScheme(counts=group["num_windows"])
        for case in group["cases"]:
            assert as_rows(partition(tuple(case["size"]), scheme, shifted=False)) == case["regular"], case["size"]
            assert as_rows(partition(tuple(case["size"]), scheme, shifted=True)) == case["shifted"], case["size"]


SCHEMES = st.one_of(
    st.builds(
        WindowScheme,
        kind=st.sampled_from(["adaptive", "unscaled", "global"]),
        counts=st.tuples(*[st.integers(1, 7)] * 3),
        reference=st.tuples(*[st.integers(1, 90)] * 2),
        max_frames=st.integers(1, 40),
    ),
    st.builds(WindowScheme, kind=st.just("fixed"), size=st.tuples(*[st.integers(1, 20)] * 3)),
)
GRIDS = st.tuples(st.integers(1, 40), st.integers(1, 25), st.integers(1, 25))


@settings(max_examples=60, deadline=None)
@given(GRIDS, SCHEMES, st.booleans())
@example((1, 1, 20_000), WindowScheme(), True)  # H scales to 0 tokens
@example((1, 1, 1), WindowScheme(), True)
def test_windows_hold_every_token_once(grid, scheme, shifted):
    windows = partition(grid, scheme, shifted)
    seen = {
        (t, h, w)
        for cells in windows
        for t in range(cells[0].start, cells[0].stop)
        for h in range(cells[1].start, cells[1].stop)
        for w in range(cells[2].start, cells[2].stop)
    }
    sizes = [
        (cell_t.stop - cell_t.start) * (cell_h.stop - cell_h.start) * (cell_w.stop - cell_w.start)
        for cell_t, cell_h, cell_w in windows
    ]
    assert min(sizes) > 0
    assert sum(sizes) == len(seen) == grid[0] * grid[1] * grid[2]
    assert all(0 <= t < grid[0] and 0 <= h < grid[1] and 0 <= w < grid[2] for t, h, w in seen)


@settings(max_examples=60, deadline=None)
@given(GRIDS, SCHEMES)
def test_shift_of_half_a_window_per_axis(grid, scheme):
    size = window_size(grid, scheme)
    regular, shifted = partition(grid, scheme, shifted=False), partition(grid, scheme, shifted=True)
    for axis, (extent, width) in enumerate(zip(grid, size, strict=True)):
        cells = {True: shifted, False: regular}
        borders = {key: sorted({0, *(window[axis].stop for window in value)}) for key, value in cells.items()}
        if width >= extent or width == 1:
            assert borders[True] == borders[False]
            continue
        assert borders[False] == [*range(0, extent, width), extent]
        assert borders[True][1] == width // 2
        # The shifted borders lie half a window beside the regular ones, rounded down for odd widths.
        halfway = (int((k + 0.5) * width) for k in range(extent))
        assert borders[True][1:-1] == [border for border in halfway if border < extent]
        assert all(b - a <= width + (width % 2) for a, b in pairwise(borders[True]))


def test_kinds_differ_as_described():
    grid = (6, 90, 160)  # twice 720p: the proxy keeps the window, the training formula lets it grow
    assert window_size(grid, WindowScheme()) == (2, 15, 27)
    assert window_size(grid, WindowScheme("unscaled")) == (2, 30, 54)
    assert window_size(grid, WindowScheme("fixed", size=(5, 8, 8))) == (5, 8, 8)
    assert window_size(grid, WindowScheme("global")) == grid
    assert window_size((31, 45, 80), WindowScheme("unscaled"))[0] == 8  # time stays capped
    assert len(partition(grid, WindowScheme("global"), shifted=True)) == 1
    assert window_size((1, 45, 80), WindowScheme()) == window_size((1, 45, 80), WindowScheme("unscaled"))


@pytest.mark.parametrize("bad", [(0, 4, 4), (1, -2, 4), (1, 4.0, 4), (True, 4, 4), (4, 4), (1, 4, "4")])
def test_bad_grids_are_refused_in_one_line(bad):
    with pytest.raises(InputError, match=r"token grid is .* positive whole numbers") as error:
        partition(bad, WindowScheme(), shifted=False)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"kind": "adaptiv"},
        {"kind": "fixed"},
        {"size": (1, 8, 8)},
        {"kind": "fixed", "size": (1, 0, 8)},
        {"counts": (4, 3)},
        {"counts": (4, 3, 0)},
        {"reference": (45, 80.0)},
        {"max_frames": False},
    ],
)
def test_inconsistent_schemes_are_refused(fields):
    with pytest.raises(InputError):
        WindowScheme(**fields)


def test_lists_from_json_make_an_equal_hashable_scheme():
    assert {WindowScheme(counts=[4, 3, 3], reference=[45, 80])} == {WindowScheme()}
