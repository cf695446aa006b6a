"""Frames too large to be worked on whole: square by square, blended where the squares overlap.

An approximation: a VAE's norms see the statistics of a square instead of those of the frame.
"""

from collections.abc import Callable
from itertools import product
from math import ceil

import torch
from torch import Tensor

OVERLAP = 1 / 4  # of a tile's side


def tiled(network: Callable[[Tensor], Tensor], x_BCTHW: Tensor, tile: int, zoom: float) -> Tensor:
    """The result of `network` for squares of x, blended.

    Args:
        network: makes (B, C', T', zoom * h, zoom * w) of (B, C, T, h, w).
        tile: side of a square in places of x.
        zoom: size of a result over that of what goes in; tiles begin where it gives whole numbers.
    """
    unit = max(1, round(1 / zoom))
    rows, columns = (_spans(extent, tile, unit) for extent in x_BCTHW.shape[3:])
    if len(rows) == len(columns) == 1:
        return network(x_BCTHW)
    height, width = (round(extent * zoom) for extent in x_BCTHW.shape[3:])
    weights_y, weights_x = (_weights(spans, zoom, extent) for spans, extent in ((rows, height), (columns, width)))
    result = None
    for (row, weight_y), (column, weight_x) in product(
        zip(rows, weights_y, strict=True), zip(columns, weights_x, strict=True)
    ):
        part = network(x_BCTHW[..., slice(*row), slice(*column)])
        if result is None:
            result = part.new_zeros(*part.shape[:3], height, width)
        top, left = round(row[0] * zoom), round(column[0] * zoom)
        weight_HW = (weight_y[:, None] * weight_x).to(part)
        result[..., top : top + part.shape[3], left : left + part.shape[4]] += part * weight_HW
    return result


def _spans(extent: int, tile: int, unit: int) -> list[tuple[int, int]]:
    """Stretches of at most `tile` places that cover the extent, spread evenly, their ends multiples of the unit."""
    tile = max(unit, tile // unit * unit)
    if tile >= extent:
        return [(0, extent)]
    step = tile - max(unit, round(tile * OVERLAP))
    count = ceil((extent - tile) / max(unit, step)) + 1
    starts = [(extent - tile) * i // (count - 1) // unit * unit for i in range(count)]
    return [(start, min(start + tile, extent)) for start in starts]


def _weights(spans: list[tuple[int, int]], zoom: float, extent: int) -> list[Tensor]:
    """For each stretch its share in the places of the result: ramps where stretches overlap, 1 in total."""
    ramps, total = [], torch.zeros(extent)
    for i, (start, stop) in enumerate(spans):
        start, stop = round(start * zoom), round(stop * zoom)
        ramp = torch.ones(stop - start)
        if i > 0:
            shared = round(spans[i - 1][1] * zoom) - start
            ramp[:shared] *= (torch.arange(shared) + 0.5) / shared
        if i < len(spans) - 1:
            shared = stop - round(spans[i + 1][0] * zoom)
            ramp[len(ramp) - shared :] *= 1 - (torch.arange(shared) + 0.5) / shared
        ramps.append(ramp)
        total[start:stop] += ramp
    return [
        ramp / total[round(start * zoom) : round(start * zoom) + len(ramp)]
        for ramp, (start, _) in zip(ramps, spans, strict=True)
    ]
