"""Figures of the notebooks: one look for all, then pure functions that draw numbers and return a matplotlib Figure.

A cell shows a figure by ending with its name. Figures are taken out of pyplot's list when they are made, so that
Jupyter does not show them a second time; no window opens anywhere.
"""

from collections.abc import Iterable, Mapping, Sequence
from math import ceil, prod
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm, Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from seedvr2_lab.lab.arms import interval
from seedvr2_lab.lab.report_pages import SMOKE_STAMP
from seedvr2_lab.model.windows import Size, Window, WindowScheme, partition

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

PAGE_WIDTH = 9.0  # inches; with the dpi below as wide as a report's page
TITLE_WIDTH = 0.085  # inches of a character of a panel's title, on average
# Okabe and Ito's colours, which people with any kind of colour vision can tell apart: blue, vermilion, green, orange,
# purple, sky blue, grey.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#E69F00", "#CC79A7", "#56B4E9", "#5F6770")
MARKERS = "osD^v"  # beside the colours: lines must be told apart without them
INK, PALE = "#24292F", "#D9DEE3"  # text and outlines; grid lines and whatever stays in the background
STYLE = {
    "figure.dpi": 96,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.constrained_layout.h_pad": 0.06,
    "figure.facecolor": "white",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "figure.titlesize": 12,
    "figure.titleweight": "bold",
    "legend.fontsize": 9,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": "#8A939C",
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": PALE,
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.8,
    "axes.prop_cycle": plt.cycler(color=COLORS),
    "image.interpolation": "nearest",
}


def new_figure(rows: int = 1, columns: int = 1, height: float = 3.5, **subplots_kw):
    """A figure of page width in the common style.

    The style stays set for the session, so that a figure which a reader adds looks like the others.

    Args:
        rows, columns: of axes.
        height: of the whole figure, in inches.
        subplots_kw: passed on to `plt.subplots`.

    Returns:
        The figure and its axes: one Axes, or an array of them as `plt.subplots` gives it.
    """
    plt.rcParams.update(STYLE)
    figure, axes = plt.subplots(rows, columns, figsize=(PAGE_WIDTH, height), **subplots_kw)
    plt.close(figure)
    return figure, axes


def stamp(figure: "Figure", profile: str) -> "Figure":
    """Mark a figure of the smoke profile as such, in a strip below the drawing; returns the figure."""
    if profile == "smoke":
        strip = 0.22 / figure.get_figheight()
        figure.get_layout_engine().set(rect=(0, strip, 1, 1 - strip))
        figure.text(0.995, strip / 2, SMOKE_STAMP, ha="right", va="center", size=9, weight="bold", color="#B26A00")
    return figure


# Windows: which tokens attend to each other.

FILL = LogNorm(10, 1_000_000)  # tokens of a window to its colour, the same in every figure


def token_count(window: Window) -> int:
    """Tokens of one window."""
    return prod(cell.stop - cell.start for cell in window)


def draw_windows(
    axes: "Axes",
    windows: Iterable[Window],
    across: tuple[int, int] = (1, 2),
    at: int = 0,
    picture: "ArrayLike | None" = None,
    numbers: bool = False,
) -> None:
    """Draw the windows that a plane of the token grid cuts, each filled by its number of tokens.

    Args:
        axes: where to draw; one token is one unit, the first row is on top.
        windows: boxes of tokens (t, h, w), as `partition` gives them.
        across: the grid's axes that run down and to the right, (1, 2) for a frame, (0, 2) for a row through time.
        at: the place of the plane on the axis that is left.
        picture: (height, width, 3) to show in place of the fill, as the tokens' mean colours; its middle is cut to fit.
        numbers: write each window's number of tokens into it.
    """
    down, right = across
    through = ({0, 1, 2} - {down, right}).pop()
    cut = [window for window in windows if window[through].start <= at < window[through].stop]
    height, width = (max(window[axis].stop for window in cut) for axis in across)
    colours = plt.get_cmap("YlGnBu")
    if picture is not None:
        axes.imshow(_shrunk(np.asarray(picture), height, width), extent=(0, width, height, 0))
    for window in cut:
        rows, columns, tokens = window[down], window[right], token_count(window)
        corner, size = (columns.start, rows.start), (columns.stop - columns.start, rows.stop - rows.start)
        fill = "none" if picture is not None else colours(FILL(tokens))
        outline = "white" if picture is not None else INK
        axes.add_patch(Rectangle(corner, *size, facecolor=fill, edgecolor=outline, clip_on=False))
        if numbers:
            axes.text(corner[0] + size[0] / 2, corner[1] + size[1] / 2, tokens, ha="center", va="center", size=8)
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    axes.grid(False)


def _shrunk(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """The largest middle part of a picture that has the shape of height × width, brought to that size."""
    from skimage.transform import resize

    H, W = picture.shape[:2]
    rows, columns = min(H, round(W * height / width)), min(W, round(H * width / height))
    top, left = (H - rows) // 2, (W - columns) // 2
    return resize(picture[top : top + rows, left : left + columns], (height, width), anti_aliasing=True)


def partition_figure(grid: Size, scheme: WindowScheme, picture: "ArrayLike | None" = None) -> "Figure":
    """Both partitions of one grid: the first frame over a picture, and the top row of tokens through time."""
    T, H, W = grid
    tall = 4.2 * H / W  # inches of a frame
    figure, axes = new_figure(2, 2, height=tall + 3.6, sharex="col", gridspec_kw={"height_ratios": (tall, 2.4)})
    for column, name in enumerate(("regular", "shifted")):
        windows = partition(grid, scheme, name == "shifted")
        frame, row = axes[:, column]
        draw_windows(frame, windows, picture=picture)
        draw_windows(row, windows, across=(0, 2), numbers=True)
        starts_t, starts_h, starts_w = (sorted({window[axis].start for window in windows}) for axis in range(3))
        frame.set(title=f"{name}: {len(windows)} windows", yticks=[*starts_h, H], ylabel="token row")
        row.set(title="through time, tokens of each window", aspect="auto", yticks=starts_t)
        row.set(xticks=[*starts_w, W], xlabel="token column", ylabel=f"frame (of {T})")
        frame.tick_params(labelbottom=True)
    return figure


def same_scale_figure(grids: Mapping[str, Size], scheme: WindowScheme) -> "Figure":
    """The middle frame of several grids, all tokens drawn equally large: regular windows above, shifted ones below."""
    room = [max(W, 40) for _, _, W in grids.values()]  # in tokens; a tiny grid still needs the width of its title
    tallest = max(H for _, H, _ in grids.values())
    inches = (PAGE_WIDTH - 0.2 * len(grids)) / sum(room)  # a token
    height = 2 * (tallest * inches + 0.7)
    figure, axes = new_figure(2, len(grids), height, gridspec_kw={"width_ratios": room}, squeeze=False)
    for row, kind in enumerate(("regular", "shifted")):
        for column, (name, grid) in enumerate(grids.items()):
            windows, here = partition(grid, scheme, kind == "shifted"), axes[row, column]
            draw_windows(here, windows, at=grid[0] // 2)
            here.set(xlim=(0, room[column]), ylim=(tallest, 0), xticks=[], yticks=[])
            here.set_title(f"{name}\n{len(windows)}", size=9)
            here.spines[:].set_visible(False)
        axes[row, 0].set_ylabel(f"{kind}, number of windows", size=9)
    return figure


def window_histogram(tokens: Mapping[str, Sequence[int]], bins: int = 24) -> "Figure":
    """How many tokens the windows hold, one panel a partition.

    Args:
        tokens: number of tokens of every window, by the partition's name.
        bins: from the smallest to the largest window of all; their edges grow by a constant factor.
    """
    figure, axes = new_figure(1, len(tokens), height=2.9, sharex=True, sharey=True, squeeze=False)
    every = [count for counts in tokens.values() for count in counts]
    edges = np.geomspace(min(every) * 0.97, max(every) * 1.03, bins + 1)
    for here, color, (name, counts) in zip(axes[0], COLORS, tokens.items(), strict=False):
        here.hist(counts, edges, color=color)
        here.set_title(f"{name}: {len(counts)} windows of {min(counts):,} to {max(counts):,} tokens")
        here.set(xscale="log", xlabel="tokens of a window", ylabel="windows", xticks=(10, 100, 1000))
        here.xaxis.set_major_formatter("{x:,.0f}")
    return figure


def token_maps(
    maps: Mapping[str, "ArrayLike"],
    label: str = "",
    marks: Mapping[str, tuple[int, int]] | None = None,
    borders: Mapping[str, Iterable[Window]] | None = None,
    log: bool = False,
) -> "Figure":
    """One number for every token of a frame, as pictures side by side.

    Args:
        maps: title -> (H, W), all drawn with one colour scale.
        label: of the colour bar; empty for none.
        marks: title -> (row, column) of the token in question, drawn as a star.
        borders: title -> windows whose rows and columns are outlined.
        log: a logarithmic scale; values of 0 stay white.
    """
    maps = {title: np.asarray(values, dtype=float) for title, values in maps.items()}
    every = np.concatenate([values.ravel() for values in maps.values()])
    norm = LogNorm(every[every > 0].min(), every.max()) if log else Normalize(every.min(), every.max())
    ratio = max(values.shape[0] / values.shape[1] for values in maps.values())
    panel = (PAGE_WIDTH - (1.8 if label else 0.8)) / len(maps) - 0.1  # inches; the rest is for scales and labels
    figure, axes = new_figure(1, len(maps), panel * ratio + 0.9, sharey=True, squeeze=False)
    for here, (title, values) in zip(axes[0], maps.items(), strict=True):
        H, W = values.shape
        image = here.imshow(values, extent=(0, W, H, 0), cmap="YlGnBu", norm=norm)
        for window in (borders or {}).get(title, ()):
            _, rows, columns = window
            size = (columns.stop - columns.start, rows.stop - rows.start)
            here.add_patch(Rectangle((columns.start, rows.start), *size, fill=False, edgecolor=COLORS[6], lw=0.7))
        if title in (marks or {}):
            row, column = marks[title]
            here.plot(column + 0.5, row + 0.5, "*", ms=11, color=COLORS[1], mec="white", mew=0.8)
        here.set(title=title, xlabel="token column")
        here.grid(False)
    axes[0, 0].set_ylabel("token row")
    if label:
        figure.colorbar(image, ax=axes, label=label)
    return figure


def scheme_panels(grids: Mapping[str, Size], schemes: Mapping[str, WindowScheme]) -> "Figure":
    """The regular windows of the middle frame: a row for each scheme, a column for each grid."""
    ratio = max(H / W for _, H, W in grids.values())
    height = len(schemes) * (PAGE_WIDTH / len(grids) * ratio + 0.35)
    figure, axes = new_figure(len(schemes), len(grids), height, squeeze=False)
    for row, (name, scheme) in enumerate(schemes.items()):
        for column, (resolution, grid) in enumerate(grids.items()):
            windows, here = partition(grid, scheme, shifted=False), axes[row, column]
            draw_windows(here, windows, at=grid[0] // 2)
            largest = max(map(token_count, windows))
            here.set_title(f"{resolution}: {len(windows)} × up to {largest:,}", size=9, weight="normal")
            here.set(xticks=[], yticks=[])
        axes[row, 0].set_ylabel(name, weight="bold")
    return figure


def scheme_curves(grids: Mapping[str, Size], schemes: Mapping[str, WindowScheme]) -> "Figure":
    """Number of windows, and how many tokens a token sees on average, over the grids; one line a scheme."""
    figure, axes = new_figure(1, 2, height=3.4)
    tokens = [prod(grid) for grid in grids.values()]
    for marker, (name, scheme) in zip(MARKERS, schemes.items(), strict=False):
        counts = [[token_count(window) for window in partition(grid, scheme, False)] for grid in grids.values()]
        seen = [sum(count**2 for count in each) / sum(each) for each in counts]  # all tokens of its own window
        axes[0].plot(tokens, [len(each) for each in counts], marker=marker, label=name)
        axes[1].plot(tokens, seen, marker=marker)
    for here, title in zip(axes, ("windows", "tokens that a token sees, mean"), strict=True):
        here.set(xscale="log", yscale="log", title=title)
        here.set_xticks(tokens, list(grids))
        here.set_xticks([], minor=True)
    figure.legend(loc="outside upper center", ncols=len(schemes))
    return figure


# Arms: what several configurations gave, with intervals over seeds.


def arms_by_size(
    values: Mapping[str, Mapping[str, Sequence[float]]],
    label: str,
    line: tuple[float, str],
    control: Mapping[str, float] | None = None,
) -> "Figure":
    """One number by picture size: the mean over seeds, a marker for each arm; bars are 95 % intervals.

    Args:
        values: arm -> size -> the number of each seed.
        label: of the vertical axis.
        line: a height that means something, and what it means.
        control: size -> a number that was not trained, drawn as grey dashes.
    """
    figure, axes = new_figure(height=3.6)
    sizes = list(next(iter(values.values())))
    axes.axhline(line[0], color=INK, lw=1, ls="--", label=line[1])
    for index, (arm, by_size) in enumerate(values.items()):
        places = np.arange(len(sizes)) + 0.14 * (index - (len(values) - 1) / 2)
        means = [interval(by_size[size]) for size in sizes]
        bars = [mean.high - mean.mean for mean in means] if means[0].seeds > 1 else None
        marker, color = MARKERS[index % len(MARKERS)], COLORS[index % len(COLORS)]
        axes.errorbar(places, [mean.mean for mean in means], bars, fmt=marker, color=color, ms=6, label=arm)
    if control:
        places = [place for place, size in enumerate(sizes) if size in control]
        axes.hlines(
            [control[sizes[place]] for place in places], np.array(places) - 0.4, np.array(places) + 0.4,
            color=COLORS[6], lw=1.2, label="VAE alone",
        )  # fmt: skip
    axes.set_xticks(range(len(sizes)), sizes)
    axes.set(xlabel="size of the test crops", ylabel=label, xlim=(-0.6, len(sizes) - 0.4))
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=len(values) + 2)
    return figure


def arm_panels(panels: Mapping[str, Mapping[str, Sequence[float]]]) -> "Figure":
    """What the arms gave: a row for each arm, a panel for each number; dots are seeds, the bar is a 95 % interval.

    Args:
        panels: label -> arm -> one number for each seed.
    """
    arms = list(next(iter(panels.values())))
    figure, axes = new_figure(1, len(panels), height=1.1 + 0.3 * len(arms), squeeze=False, sharey=True)
    for here, (label, by_arm) in zip(axes[0], panels.items(), strict=True):
        for row, arm in enumerate(arms):
            here.plot(by_arm[arm], [row] * len(by_arm[arm]), "o", color=COLORS[6], alpha=0.45, ms=5, mec="none")
            mean = interval(by_arm[arm])
            here.plot(mean.mean, row, "D", color=COLORS[0], ms=6)
            if mean.seeds > 1:
                here.hlines(row, mean.low, mean.high, color=COLORS[0], lw=2)
        here.set(xlabel=label, yticks=range(len(arms)), yticklabels=arms, ylim=(len(arms) - 0.5, -0.5))
        here.locator_params(axis="x", nbins=5)  # three decimals each: more of them would overlap
    return figure


def paired_differences(panels: Mapping[str, Mapping[str, Sequence[float]]]) -> "Figure":
    """`arm_panels` of differences between two arms, with a line where there is none."""
    figure = arm_panels(panels)
    for here in figure.axes:
        here.axvline(0, color=INK, lw=1, zorder=0)
    return figure


def crops_with_borders(
    crops: Mapping[str, np.ndarray],
    original: np.ndarray,
    borders: Mapping[str, tuple[tuple[Sequence[int], Sequence[int]], tuple[Sequence[int], Sequence[int]]]],
    gain: float = 4.0,
) -> "Figure":
    """The original and restored crops side by side, below each its error; ticks mark window borders.

    Args:
        crops: title -> (H, W, 3) in [0, 1].
        original: what they should be, (H, W, 3).
        borders: title -> pixels of rows and of columns, each for regular layers (long ticks) and for shifted ones.
        gain: the error, a mean over colours, is multiplied by this for display.
    """
    H, W = original.shape[:2]
    figure, axes = new_figure(2, len(crops) + 1, PAGE_WIDTH / (len(crops) + 1) * H / W * 2 + 0.7)
    axes[0, 0].imshow(original)
    axes[0, 0].set_title("original", pad=12)
    axes[0, 0].set(xticks=[], yticks=[])
    axes[1, 0].axis("off")
    kinds = {"regular layers": COLORS[1], "shifted layers": COLORS[0]}
    ticks = [Line2D([], [], color=color, lw=2, label=f"border in {name}") for name, color in kinds.items()]
    axes[1, 0].legend(handles=ticks, title=f"right: error × {gain:g}", loc="center", alignment="left")
    for (above, below), (title, crop) in zip(axes.T[1:], crops.items(), strict=True):
        above.imshow(crop)
        below.imshow(np.abs(crop - original).mean(2) * gain, cmap="magma", vmin=0, vmax=1)
        above.set_title(title, pad=12)
        for here in (above, below):
            here.grid(False)
            here.set(xticks=[], yticks=[])
            here.xaxis.tick_top()
            for axis, parities in zip((here.yaxis, here.xaxis), borders.get(title, ()), strict=False):
                for minor, places in zip((False, True), parities, strict=True):
                    axis.set_ticks([place - 0.5 for place in places], labels=[], minor=minor)
            for which, length, color in zip(("major", "minor"), (9, 5), kinds.values(), strict=True):
                here.tick_params(which=which, length=length, width=1.6, color=color)
    return figure


# Restoration: pictures and latents of its stages.


def picture_row(pictures: Mapping[str, np.ndarray], original: np.ndarray | None = None, gain: float = 4.0) -> "Figure":
    """Pictures side by side, all drawn equally wide, whatever their resolution; in several rows if titles would meet.

    Args:
        pictures: title -> (H, W, 3) in [0, 1]; all of about one shape.
        original: if given, below each picture stands how far it is from it, a mean over colours; black is 0.
        gain: that distance is multiplied by this for display.
    """
    longest = max(len(line) for title in pictures for line in title.split("\n"))
    across = int(PAGE_WIDTH / TITLE_WIDTH / max(longest, 12))  # short titles: 8 pictures, for more would be too small
    rows = ceil(len(pictures) / max(2, across))
    columns, deep = max(ceil(len(pictures) / rows), 2), 1 if original is None else 2  # one need not fill the page
    ratio = max(picture.shape[0] / picture.shape[1] for picture in pictures.values())
    lines = 1 + max(title.count("\n") for title in pictures)
    height = rows * (deep * PAGE_WIDTH / columns * ratio + 0.25 + 0.2 * lines)
    figure, axes = new_figure(rows * deep, columns, height, squeeze=False)
    for here in axes.flat:
        here.set(xticks=[], yticks=[])
        here.grid(False)
        here.spines[:].set_visible(False)
    for place, (title, picture) in enumerate(pictures.items()):
        row, column = divmod(place, columns)
        H, W = picture.shape[:2]
        axes[row * deep, column].imshow(picture, extent=(0, W, H, 0))
        axes[row * deep, column].set_title(title, size=10)
        if original is not None:
            below = axes[row * deep + 1, column]
            below.imshow(gain * np.abs(picture - original).mean(2), cmap="magma", vmin=0, vmax=1)
            below.set_ylabel(f"error × {gain:g}" if not column else "")
    return figure


def latent_maps(latents: Mapping[str, "ArrayLike"], channels: Sequence[int]) -> "Figure":
    """Channels of latent frames: a row for each latent, a column for each channel, one colour scale, white is zero.

    Args:
        latents: name -> (C, H, W), all of one shape.
        channels: which of them to draw.
    """
    maps = {name: np.asarray(latent, dtype=float)[list(channels)] for name, latent in latents.items()}
    limit = np.quantile(np.abs(list(maps.values())), 0.995)  # single outliers would make everything else pale
    C, H, W = next(iter(maps.values())).shape
    height = len(maps) * ((PAGE_WIDTH - 0.8) / C * H / W + 0.1) + 0.3
    figure, axes = new_figure(len(maps), C, height, squeeze=False)
    for row, (name, latent) in zip(axes, maps.items(), strict=True):
        for here, channel in zip(row, latent, strict=True):
            image = here.imshow(channel, cmap="RdBu_r", vmin=-limit, vmax=limit)
            here.set(xticks=[], yticks=[])
            here.grid(False)
        row[0].set_ylabel(name, size=8)
    for here, number in zip(axes[0], channels, strict=True):
        here.set_title(f"channel {number}", size=9, weight="normal")
    figure.colorbar(image, ax=axes, shrink=0.9, aspect=15)
    return figure


# Degradation: one frame after every stage.


def degradation_stages(stages: Sequence[tuple[str, str, "ArrayLike"]], columns: int = 4) -> "Figure":
    """A frame after each stage, row by row, all drawn equally wide, whatever their resolution.

    Args:
        stages: name, what was drawn for it, and the frame (H, W, 3) in [0, 1]; as `degrade` gives them to its `keep`.
        columns: frames in a row.
    """
    pictures = [np.clip(picture, 0, 1) for _, _, picture in stages]
    rows = -(-len(pictures) // columns)
    ratio = max(picture.shape[0] / picture.shape[1] for picture in pictures)
    figure, axes = new_figure(rows, columns, rows * (PAGE_WIDTH / columns * ratio + 0.45), squeeze=False)
    for here in axes.flat:
        here.axis("off")
    for number, (here, (name, drawn, _), picture) in enumerate(zip(axes.flat, stages, pictures, strict=False)):
        H, W = picture.shape[:2]
        here.imshow(picture, extent=(0, W, H, 0))
        here.set_title(f"{number}  {name}", size=10, pad=17)
        here.text(0, 1.02, drawn, size=8, color=COLORS[6], transform=here.transAxes, va="bottom")
    return figure
