"""Figures show the numbers they are given: counts, areas and places are read back from what was drawn."""

from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pytest

from seedvr2_lab.lab import figures
from seedvr2_lab.lab.figures import PAGE_WIDTH, new_figure, stamp, token_count
from seedvr2_lab.lab.report_pages import SMOKE_STAMP
from seedvr2_lab.model.windows import WindowScheme, partition, window_size

GRID, SCHEME = (25, 45, 80), WindowScheme()


def overlaps(one, other) -> bool:
    return one.x0 < other.x1 and other.x0 < one.x1 and one.y0 < other.y1 and other.y0 < one.y1


def test_a_figure_is_shown_once_and_has_the_width_of_a_page():
    figure, axes = new_figure(2, 3, height=4)
    assert plt.get_fignums() == []  # or Jupyter would show it again at the end of the cell
    assert figure.get_size_inches().tolist() == [PAGE_WIDTH, 4]
    assert axes.shape == (2, 3)


@pytest.mark.parametrize("profile", ["smoke", "laptop"])
def test_only_smoke_is_stamped_and_the_stamp_covers_nothing(profile):
    figure, axes = new_figure(1, 2, height=2)
    for here in axes:
        here.set(title="title", xlabel="tokens")
    assert stamp(figure, profile) is figure
    figure.draw_without_rendering()
    assert [text.get_text() for text in figure.texts] == [SMOKE_STAMP] * (profile == "smoke")
    for text in figure.texts:
        box = text.get_window_extent()
        assert figure.bbox.containsx(box.x0) and figure.bbox.containsx(box.x1) and figure.bbox.containsy(box.y0)
        assert not any(overlaps(box, here.get_tightbbox()) for here in axes)


@pytest.mark.parametrize(("across", "at", "area"), [((1, 2), 0, 45 * 80), ((0, 2), 44, 25 * 80)])
@pytest.mark.parametrize("shifted", [False, True])
def test_drawn_windows_tile_the_plane(across, at, area, shifted):
    _, axes = new_figure()
    windows = partition(GRID, SCHEME, shifted)
    figures.draw_windows(axes, windows, across, at, numbers=True)
    through = ({0, 1, 2} - set(across)).pop()
    cut = [window for window in windows if window[through].start <= at < window[through].stop]
    assert sum(patch.get_width() * patch.get_height() for patch in axes.patches) == area
    assert sorted(int(text.get_text()) for text in axes.texts) == sorted(map(token_count, cut))


def test_the_picture_behind_the_windows_has_a_pixel_a_token_and_keeps_its_shape():
    _, axes = new_figure()
    picture = np.zeros((400, 400, 3))
    picture[:80] = picture[320:] = 1  # above and below what 45×80 tokens of a square show
    figures.draw_windows(axes, partition(GRID, SCHEME, False), picture=picture)
    shown = axes.images[0].get_array()
    assert shown.shape == (45, 80, 3)
    assert shown.max() < 0.1


def test_both_partitions_of_the_training_size():
    frames = figures.partition_figure(GRID, SCHEME).axes[:2]
    assert [axes.get_title("left") for axes in frames] == ["regular: 36 windows", "shifted: 80 windows"]
    assert [tick.get_text() for tick in frames[1].get_yticklabels()] == ["0", "7", "22", "37", "45"]


def test_one_scale_for_every_grid():
    figure = figures.same_scale_figure({"tiny": (5, 4, 4), "720p": GRID, "1080p": (25, 68, 120)}, SCHEME)
    figure.draw_without_rendering()
    pixels_a_token = [axes.get_window_extent().height / abs(np.subtract(*axes.get_ylim())) for axes in figure.axes]
    assert np.allclose(pixels_a_token, pixels_a_token[0], rtol=0.02)


def test_every_window_is_in_the_histogram():
    counts = [token_count(window) for window in partition((25, 68, 120), SCHEME, True)]
    (axes,) = figures.window_histogram({"shifted": counts}).axes
    assert sum(bar.get_height() for bar in axes.patches) == len(counts) == 150
    assert axes.get_title("left") == "shifted: 150 windows of 13 to 2,835 tokens"


def test_maps_share_one_scale():
    maps = {"a": [[0, 1], [2, 3]], "b": [[0, 10], [0, 100]]}
    images = [axes.images[0] for axes in figures.token_maps(maps, marks={"b": (1, 0)}).axes]
    assert [image.get_clim() for image in images] == [(0, 100)] * 2
    images = [axes.images[0] for axes in figures.token_maps(maps, "gradient", log=True).axes[:2]]
    assert [image.get_clim() for image in images] == [(1, 100)] * 2


def test_curves_agree_with_counting_pair_by_pair():
    grids = {"small": (2, 6, 7), "large": (3, 10, 12)}
    schemes = {"adaptive": WindowScheme(reference=(6, 7)), "global": WindowScheme("global")}
    counted, seen = figures.scheme_curves(grids, schemes).axes
    for scheme, count_line, seen_line in zip(schemes.values(), counted.lines, seen.lines, strict=True):
        for grid, count, mean in zip(grids.values(), count_line.get_ydata(), seen_line.get_ydata(), strict=True):
            size = window_size(grid, scheme)
            home = np.stack([places // width for places, width in zip(np.indices(grid), size, strict=True)])
            home = home.reshape(3, -1)  # which window every token sits in
            assert count == len(np.unique(home, axis=1).T)
            assert mean == pytest.approx((home[:, :, None] == home[:, None]).all(0).sum(1).mean())


def test_panels_name_the_largest_window():
    titles = [axes.get_title("left") for axes in figures.scheme_panels({"720p": GRID}, {"adaptive": SCHEME}).axes]
    assert titles == ["720p: 36 × up to 2,835"]


def test_pictures_of_any_resolution_are_drawn_alike():
    figure = figures.picture_row({"low": np.zeros((4, 6, 3)), "high": np.ones((16, 24, 3))})
    figure.draw_without_rendering()
    low, high = (axes.get_window_extent() for axes in figure.axes)
    assert (low.width, low.height) == pytest.approx((high.width, high.height))
    assert low.width / low.height == pytest.approx(6 / 4)


@pytest.mark.parametrize("name", ["+fm", "distilled lossless"])
@pytest.mark.parametrize("errors", [False, True])
@pytest.mark.parametrize("count", [1, 7, 8, 13])
def test_titles_of_many_pictures_do_not_meet(count, errors, name):
    black = np.zeros((6, 6, 3))
    names = [f"{name} {i}" for i in range(count)]
    figure = figures.picture_row(dict.fromkeys(names, black), black if errors else None)
    figure.draw_without_rendering()
    titled = [axes for axes in figure.axes if axes.get_title("left")]
    assert [axes.get_title("left") for axes in titled] == names
    places = [axes._left_title.get_window_extent() for axes in titled]
    assert not any(overlaps(one, other) for one, other in combinations(places, 2))
    assert sum(bool(axes.images) for axes in figure.axes) == count * (1 + errors)


def test_errors_stand_below_their_pictures_and_black_is_right():
    original = np.full((4, 6, 3), 0.5)
    wrong = original.copy()
    wrong[1, 2] += (0.3, 0, 0)  # 0.1, the mean over colours
    figure = figures.picture_row({"wrong": wrong, "right": original}, original, gain=4)
    shown = {
        axes.get_title("left"): below.images[0] for axes, below in zip(figure.axes[:2], figure.axes[2:], strict=True)
    }
    assert [image.get_clim() for image in shown.values()] == [(0, 1)] * 2
    assert np.abs(shown["right"].get_array()).max() == 0
    assert shown["wrong"].get_array().sum() == shown["wrong"].get_array()[1, 2] == pytest.approx(0.4)


def test_latent_maps_share_a_scale_with_zero_in_the_middle():
    latents = {"a": np.arange(3 * 4 * 6).reshape(3, 4, 6), "b": -np.ones((3, 4, 6))}
    drawn = figures.latent_maps(latents, [2, 0]).axes[:4]
    assert [axes.get_title() for axes in drawn[:2]] == ["", ""]
    assert [axes.get_title("left") for axes in drawn[:2]] == ["channel 2", "channel 0"]
    assert np.array_equal(drawn[0].images[0].get_array(), latents["a"][2])
    limits = {axes.images[0].get_clim() for axes in drawn}
    ((low, high),) = limits
    assert low == -high and high == pytest.approx(latents["a"].max(), rel=0.05)


def test_stages_of_a_degradation_are_numbered_and_drawn_equally_wide():
    stages = [("original", "", np.zeros((16, 24, 3))), ("blur 1", "Gaussian, 7 px", np.full((16, 24, 3), 1.5))]
    stages += [("final size", "area, 4×6", np.full((4, 6, 3), 0.5))] * 3
    figure = figures.degradation_stages(stages, columns=4)
    figure.draw_without_rendering()
    drawn = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title("left") for axes in drawn[:3]] == ["0  original", "1  blur 1", "2  final size"]
    assert [axes.texts[0].get_text() for axes in drawn] == [detail for _, detail, _ in stages]
    assert [tuple(axes.images[0].get_array().shape[:2]) for axes in drawn[1:3]] == [(16, 24), (4, 6)]
    assert drawn[1].images[0].get_array().max() == 1
    assert len({round(axes.get_window_extent().width) for axes in drawn}) == 1
    for axes in drawn:
        title, detail = axes._left_title.get_window_extent(), axes.texts[0].get_window_extent()
        assert not overlaps(title, detail) and not overlaps(detail, axes.get_window_extent())
