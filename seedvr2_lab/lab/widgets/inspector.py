"""The window inspector: the windows of a token grid on a picture, for any resolution, length and scheme."""

from collections.abc import Mapping
from io import BytesIO
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import anywidget
import ipywidgets as w
import numpy as np
import traitlets
from PIL import Image, ImageOps

from seedvr2_lab.lab.figures import INK, draw_windows, new_figure, token_count
from seedvr2_lab.lab.widgets.keys import OwnKeys
from seedvr2_lab.model.windows import WindowScheme, partition, window_size

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HERE = Path(__file__).parent
TOKEN = 16  # pixels a token side in the published models
FRAMES_A_LATENT = 4  # the first latent frame holds one
RESOLUTIONS = {
    "128×128": (128, 128), "480p 848×480": (480, 848), "portrait 720×1280": (1280, 720), "720p 1280×720": (720, 1280),
    "square 960×960": (960, 960), "1080p 1920×1088": (1088, 1920), "4K 3840×2160": (2160, 3840),
}  # fmt: skip
SCHEMES = {
    "adaptive": WindowScheme(),
    "fixed": WindowScheme("fixed", size=(7, 32, 32)),
    "unscaled": WindowScheme("unscaled"),
    "global": WindowScheme("global"),
}
PARITIES = {"even: regular": False, "odd: shifted": True}
BINS = 16
SHOWN_SIDE = 720  # pixels of the picture's longer side


def token_grid(size: tuple[int, int], frames: int) -> tuple[int, int, int]:
    """Tokens (T, H, W) of a clip of `frames` frames of (height, width) pixels in the published models."""
    return (frames + FRAMES_A_LATENT - 2) // FRAMES_A_LATENT + 1, -(-size[0] // TOKEN), -(-size[1] // TOKEN)


def render_windows(grid: tuple[int, int, int], scheme: WindowScheme, shifted: bool, at: int = 0) -> dict:
    """What the view draws.

    Args:
        grid: tokens (T, H, W).
        at: the latent frame that is looked at.

    Returns:
        windows: those that frame cuts, each [t0, t1, h0, h1, w0, w1]; tokens: how many each of them holds;
        columns: of the histogram over all windows, each [from, to, count], `to` exclusive; summary: one line.
    """
    windows = partition(grid, scheme, shifted)
    counts = [token_count(window) for window in windows]
    cut = [window for window in windows if window[0].start <= at < window[0].stop]
    edges = np.unique(np.linspace(0, max(counts) + 1, BINS + 1).round().astype(int))
    heights, _ = np.histogram(counts, edges)
    columns = np.stack([edges[:-1], edges[1:], heights], 1).tolist()
    spread = f"{min(counts):,} to {max(counts):,}" if min(counts) < max(counts) else f"{max(counts):,}"
    return {
        "windows": [[end for cell in window for end in (cell.start, cell.stop)] for window in cut],
        "tokens": [token_count(window) for window in cut],
        "columns": columns,
        "summary": f"{' × '.join(map(str, grid))} = {prod(grid):,} tokens; a full window is "
        f"{' × '.join(map(str, window_size(grid, scheme)))}; {len(counts)} windows of {spread} tokens, "
        f"{len(cut)} in this frame",
    }


def windows_picture(
    picture: np.ndarray, grid: tuple[int, int, int], scheme: WindowScheme, shifted: bool, at: int = 0
) -> "Figure":
    """The same as a figure: for reports and viewers that run no widgets."""
    state = render_windows(grid, scheme, shifted, at)
    figure, (left, right) = new_figure(1, 2, 3.4, width_ratios=(2, 1))
    draw_windows(left, partition(grid, scheme, shifted), at=at, picture=picture)
    left.set(title=f"latent frame {at}", xticks=[], yticks=[])
    start, stop, count = np.array(state["columns"]).T
    right.bar(start, count, stop - start, align="edge", edgecolor=INK)
    right.set(title="windows of the clip", xlabel="tokens in a window", ylabel="windows")
    return figure


class WindowView(anywidget.AnyWidget):
    """A picture with windows on it and a histogram of their tokens; hover or focus a window for its extent.

    Traits:
        picture: JPEG, of the grid's shape.
        grid: tokens (T, H, W).
        state: what `render_windows` returns.
        window: index of the window looked at, -1 for none.
    """

    _esm = HERE / "inspector.js"
    _css = HERE / "widgets.css"
    picture = traitlets.Bytes(b"").tag(sync=True)
    grid = traitlets.List([1, 1, 1]).tag(sync=True)
    state = traitlets.Dict({}).tag(sync=True)
    window = traitlets.Int(-1).tag(sync=True)


class WindowInspector(w.VBox):
    """Controls around a `WindowView`: `resolution`, `frames`, `scheme`, `layer`, `at`.

    Args:
        picture: (height, width, 3) in [0, 1]; its middle is cut to the frame's shape.
        schemes: name -> scheme, to choose from.
    """

    def __init__(self, picture: np.ndarray, schemes: Mapping[str, WindowScheme] = SCHEMES):
        self._picture = Image.fromarray((np.asarray(picture) * 255).round().astype(np.uint8))
        self._schemes = dict(schemes)
        style = {"description_width": "initial"}

        def control(kind: type[w.Widget], description: str, width: str, **options) -> w.Widget:
            return kind(description=description, style=style, layout=w.Layout(width=width), **options)

        self.resolution = control(w.Dropdown, "Resolution", "240px", options=RESOLUTIONS, value=(720, 1280))
        lengths = dict(min=1, max=241, step=4, value=97, continuous_update=False)
        self.frames = control(w.IntSlider, "Video frames", "300px", **lengths)
        self.scheme = control(w.Dropdown, "Windows", "170px", options=list(self._schemes))
        self.layer = control(w.Dropdown, "Layers", "240px", options=PARITIES)
        self.at = control(w.IntSlider, "Latent frame", "300px", min=0, max=24)
        self.view = WindowView()
        for control in (self.resolution, self.frames, self.scheme, self.layer, self.at):
            control.observe(self._update, "value")
        row = w.Layout(flex_flow="row wrap", align_items="center", grid_gap="0 16px")
        first, second = (self.resolution, self.scheme, self.layer), (self.frames, self.at)
        super().__init__([OwnKeys(), w.HBox(first, layout=row), w.HBox(second, layout=row), self.view])
        self._update()

    def _update(self, change: object = None) -> None:
        grid = token_grid(self.resolution.value, self.frames.value)
        self.at.max = grid[0] - 1
        state = render_windows(grid, self._schemes[self.scheme.value], self.layer.value, self.at.value)
        with self.view.hold_sync():
            if list(grid) != self.view.grid:
                self.view.picture, self.view.grid = _fitted(self._picture, grid), list(grid)
            self.view.state, self.view.window = state, -1


def _fitted(picture: Image.Image, grid: tuple[int, int, int]) -> bytes:
    unit = SHOWN_SIDE / max(grid[1:])
    file = BytesIO()
    ImageOps.fit(picture, (round(grid[2] * unit), round(grid[1] * unit))).save(file, "JPEG", quality=88)
    return file.getvalue()
