"""Figures of the VAE study that no other study has."""

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.colors import LogNorm

from seedvr2_lab.lab.figures import COLORS, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike


def influence_map(changes: "ArrayLike", factor: int) -> "Figure":
    """Which latent frames change with which video frame; white is no change at all.

    Args:
        changes: (T, t), not negative.
        factor: video frames a latent frame; the stairs show where causality allows a change to begin.
    """
    changes = np.asarray(changes, dtype=float)
    T, t = changes.shape
    figure, axes = new_figure(height=3.8)
    shown = np.ma.masked_equal(changes.T, 0)
    image = axes.imshow(shown, cmap="YlGnBu", norm=LogNorm(shown.min(), shown.max()), aspect="auto", origin="lower")
    first = [-(-frame // factor) - 0.5 for frame in range(T)]
    axes.step([-0.5, *np.arange(T) + 0.5], [first[0], *first], color=COLORS[1], label="no earlier than here")
    axes.set(xlabel="video frame that was changed", ylabel="latent frame", xlim=(-0.5, T - 0.5), ylim=(-0.6, t - 0.5))
    axes.grid(False)
    axes.legend(loc="lower right")
    figure.colorbar(image, label="largest change of the latent")
    return figure
