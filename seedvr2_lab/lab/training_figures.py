"""Figures of adversarial training: points and their modes, curves, discriminators as surfaces, arms side by side."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import matplotlib.pyplot as plt
import numpy as np

from seedvr2_lab.lab.figures import COLORS, INK, MARKERS, PAGE_WIDTH, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

Curve = tuple[Sequence[float], Sequence[float]]  # x, y


def point_panels(
    panels: Mapping[str, "ArrayLike"],
    modes: "ArrayLike",
    radius: float,
    edge: float,
    surfaces: Mapping[str, "ArrayLike"] | None = None,
    columns: int = 5,
) -> "Figure":
    """Points in the plane, a panel for each set; circles are the modes.

    Args:
        panels: title -> (B, 2).
        modes: (M, 2), their centres.
        radius: of the circles.
        edge: a panel shows the square from -edge to edge.
        surfaces: title -> (S, S) values on a lattice over that square, the first row at the bottom, drawn behind the
            points; each has a colour scale of its own, blue high and red low.
    """
    from matplotlib.collections import EllipseCollection

    rows, columns = -(-len(panels) // columns), min(columns, len(panels))
    figure, axes = new_figure(rows, columns, rows * (PAGE_WIDTH / columns + 0.35), squeeze=False)
    for here in axes.flat[len(panels) :]:
        here.axis("off")
    for here, (title, points) in zip(axes.flat, panels.items(), strict=False):
        x, y = np.asarray(points).T
        color = COLORS[0]
        if surfaces:
            color = INK
            surface = np.asarray(surfaces[title])
            here.imshow(
                surface,
                cmap=plt.get_cmap("RdBu", 15),
                origin="lower",
                extent=(-edge, edge, -edge, edge),
                interpolation="nearest",
            )
        sizes = np.full(len(np.asarray(modes)), 2 * radius)
        here.add_collection(
            EllipseCollection(
                sizes, sizes, np.zeros_like(sizes), units="x", offsets=np.asarray(modes),
                offset_transform=here.transData, facecolors="none", edgecolors=COLORS[1], linewidths=0.9,
            )
        )  # fmt: skip
        here.plot(x, y, ".", ms=2.6, color=color, mec="none")
        here.set_title(title, size=10)
        here.set(xlim=(-edge, edge), ylim=(-edge, edge), aspect="equal", xticks=[], yticks=[])
        here.grid(False)
    return figure


def curve_panels(
    panels: Mapping[str, Mapping[str, Sequence[Curve]]],
    xlabel: str,
    logx: bool = False,
    logy: bool = False,
    line: float | None = None,
    ylim: tuple[float, float] | None = None,
    markers: bool = False,
    ylabel: str = "",
    names: Sequence[str] = (),
    dots: Mapping[str, Mapping[str, Curve]] | None = None,
) -> "Figure":
    """Curves by name, a panel for each quantity; several curves of one name are seeds: their mean, and a band from the
    lowest to the highest.

    Args:
        panels: title -> name -> curves that share their x.
        line: a height that means something, dashed.
        markers: mark the places, where they are few.
        names: in the order of their colours, if figures with other curves shall look alike.
        dots: title -> name -> what was measured, beside curves that were computed.
    """
    figure, axes = new_figure(1, len(panels), height=3.5, squeeze=False)
    names = names or list(dict.fromkeys(name for curves in panels.values() for name in curves))
    for here, (title, curves) in zip(axes[0], panels.items(), strict=True):
        if line is not None:
            here.axhline(line, color=INK, lw=1, ls="--")
        for name, each in curves.items():
            number = names.index(name)
            color, marker = COLORS[number % len(COLORS)], MARKERS[number % len(MARKERS)]
            heights = [y for _, y in each]
            mean = np.mean(heights, axis=0)
            if len(each) > 1:
                here.fill_between(each[0][0], np.min(heights, 0), np.max(heights, 0), color=color, alpha=0.15, lw=0)
            style = {"ls": ("-", "--", "-.", ":")[number % 4]} | ({"marker": marker, "ms": 5} if markers else {})
            here.plot(each[0][0], mean, color=color, label=name, **style)
            if dots and name in dots[title]:
                here.plot(*dots[title][name], marker, color=color, ms=6)
        here.set(title=title, xlabel=xlabel, xscale="log" if logx else "linear", yscale="log" if logy else "linear")
        if ylim:
            here.set(ylim=ylim)
    axes[0, 0].set_ylabel(ylabel)
    handles = {
        label: handle for here in axes[0] for handle, label in zip(*here.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=min(5, len(handles)))
    return figure


def path_panels(paths: Mapping[str, "ArrayLike"], xlabel: str, ylabel: str) -> "Figure":
    """Two numbers that move, a panel for each path (N, 2); a circle marks its begin, a star the origin."""
    figure, axes = new_figure(
        1, len(paths), height=PAGE_WIDTH / max(3, len(paths)) + 0.4, squeeze=False, sharex=True, sharey=True
    )
    for here, (title, path) in zip(axes[0], paths.items(), strict=True):
        x, y = np.asarray(path).T
        here.plot(x, y, color=COLORS[0], lw=1)
        here.plot(x[0], y[0], "o", color=COLORS[0], ms=7)
        here.plot(0, 0, "*", color=COLORS[1], ms=12)
        here.set_title(title, size=10)
        here.set(xlabel=xlabel, aspect="equal")
    axes[0, 0].set_ylabel(ylabel)
    return figure
