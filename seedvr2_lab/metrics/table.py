"""One table of the metrics that need only a restored clip and its original, and one way to ask for any of them."""

from collections.abc import Callable
from functools import partial
from math import inf, isfinite
from pathlib import Path
from typing import Literal, NamedTuple

from torch import Tensor

from seedvr2_lab.console import InputError
from seedvr2_lab.metrics.fidelity import frames_of, frames_of_both, psnr, ssim
from seedvr2_lab.metrics.library import Unavailable, score
from seedvr2_lab.metrics.motion import flicker, optical_flow, warping_error
from seedvr2_lab.metrics.texture import high_frequency_ratio, spectrum_distance, texture_distance
from seedvr2_lab.metrics.weights import weights_root

SLACK = 1e-3  # that a result may lie outside of its range by rounding


class Metric(NamedTuple):
    range: tuple[float, float]
    better: Literal["higher", "lower", "nearer 1"]
    source: str
    of: Callable[[Tensor, Tensor | None, Path], float | Unavailable]  # restored, reference, folder of weights
    reference: bool = True  # needs the original
    weights: bool = False  # needs learned weights
    side: int = 1  # the smallest height and width in pixels
    not_finite: str = "the result is not a finite number"  # what that means


def _own(function: Callable[[Tensor, Tensor], float]) -> Callable[[Tensor, Tensor, Path], float]:
    return lambda restored, reference, root: function(restored, reference)


def _warping(restored: Tensor, reference: Tensor) -> float:
    return warping_error(restored, optical_flow(reference))


def _no_dover(*_: Tensor | Path | None) -> Unavailable:
    return Unavailable("no maintained package provides DOVER")


METRICS = {
    # The paper's Tables 1 and 4. DISTS and LPIPS as in pyiqa: VGG-16, and AlexNet with linear weights 0.1.
    "psnr": Metric((-inf, inf), "higher", "closed form", _own(psnr), not_finite="a frame equals the original"),
    "ssim": Metric((-1, 1), "higher", "scikit-image; Wang et al. 2004", _own(ssim), side=11),
    "lpips": Metric((0, inf), "lower", "pyiqa; Zhang et al. 2018", partial(score, "lpips"), weights=True, side=32),
    "dists": Metric((0, 1), "lower", "pyiqa; Ding et al. 2020", partial(score, "dists"), weights=True, side=16),
    "niqe": Metric(  # two blocks of 96 pixels a side: a single one has no covariance
        (0, inf), "lower", "pyiqa; Mittal et al. 2013", partial(score, "niqe"), reference=False, weights=True, side=192
    ),
    "musiq": Metric(
        (0, 100), "higher", "pyiqa; Ke et al. 2021", partial(score, "musiq"), reference=False, weights=True, side=32
    ),
    "clipiqa": Metric(
        (0, 1), "higher", "pyiqa; Wang et al. 2023", partial(score, "clipiqa"), reference=False, weights=True, side=32
    ),
    "dover": Metric((-inf, inf), "higher", "Wu et al. 2023", _no_dover, reference=False, weights=True),
    "warping": Metric(
        (0, 1), "lower", "own, OpenCV's flow; Lai et al. 2018", _own(_warping), side=16,
        not_finite="nothing can be followed from one frame to a next one",
    ),
    # Our own: what an adversarial loss buys where LPIPS and DISTS can't be had, and what moves that should not.
    "texture": Metric(
        (0, inf), "lower", "own; Karras et al. 2018", _own(texture_distance), side=7,
        not_finite="the original has no texture",
    ),
    "spectrum": Metric((0, inf), "lower", "own", _own(spectrum_distance), side=8),
    "high_frequency": Metric(
        (0, inf), "nearer 1", "own", _own(high_frequency_ratio), side=8, not_finite="the original has no fine detail",
    ),
    "flicker": Metric((0, 2), "lower", "own", _own(flicker), not_finite="a single frame cannot flicker"),
    # Beside them, for comparison with other work: no learned weights.
    "ms_ssim": Metric((0, 1), "higher", "pyiqa; Wang et al. 2003", partial(score, "ms_ssim"), side=161),
    "fsim": Metric((0, 1), "higher", "pyiqa; Zhang et al. 2011", partial(score, "fsim"), side=16),
    "vsi": Metric((0, 1), "higher", "pyiqa; Zhang et al. 2014", partial(score, "vsi"), side=16),
    "gmsd": Metric((0, 1), "lower", "pyiqa; Xue et al. 2014", partial(score, "gmsd"), side=16),
    "nlpd": Metric((0, inf), "lower", "pyiqa; Laparra et al. 2016", partial(score, "nlpd"), side=16),
    "vif": Metric((0, inf), "higher", "pyiqa; Sheikh and Bovik 2006", partial(score, "vif"), side=33),
    "piqe": Metric((0, 100), "lower", "pyiqa; Venkatanath 2015", partial(score, "piqe"), reference=False, side=16),
}  # fmt: skip


def measure(
    name: str, restored: Tensor, reference: Tensor | None = None, weights: str | Path | None = None
) -> float | Unavailable:
    """A metric of METRICS, for a clip the mean over its frames unless the metric says otherwise.

    Args:
        restored: (C, T, H, W) or (C, H, W) in [0, 1].
        reference: the original, of the same shape; None for footage that has none.
        weights: the folder that `fetch_weights` filled.

    Returns:
        A finite number, or why there is none. Never fetches anything.

    Raises:
        InputError: for a name that is not in the table, or two clips that cannot be compared.
    """
    if name not in METRICS:
        raise InputError(f"there is no metric '{name}': choose from {', '.join(METRICS)}")
    metric = METRICS[name]
    clips = (frames_of(restored),) if reference is None else frames_of_both(restored, reference)
    H, W = restored.shape[-2:]
    if metric.reference and reference is None:
        return Unavailable(f"{name} needs the original")
    if not all(clip.isfinite().all() for clip in clips):
        return Unavailable("a clip holds values that are not finite")
    if min(H, W) < metric.side:
        return Unavailable(f"frames are {H}x{W}, {name} needs {metric.side} pixels a side")
    value = metric.of(restored, reference if metric.reference else None, weights_root(weights))
    if isinstance(value, Unavailable):
        return value
    if not isfinite(value):
        return Unavailable(metric.not_finite)
    low, high = metric.range
    if not low - SLACK <= value <= high + SLACK:
        return Unavailable(f"the result {value:.4g} is outside of the range of {name}, {low:g} to {high:g}")
    return value
