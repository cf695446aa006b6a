"""What counts as good: distance from the original, textures, borders that show, and what changes over time.

Pictures are (C, H, W) and clips (C, T, H, W), RGB in [0, 1]; all results are plain numbers. `METRICS` lists those that
need no more than a restored clip and its original, and `measure` answers any of them with a number or with the reason
why there is none.
"""

from seedvr2_lab.metrics.fidelity import psnr, ssim
from seedvr2_lab.metrics.library import Unavailable
from seedvr2_lab.metrics.motion import flicker, optical_flow, warping_error
from seedvr2_lab.metrics.seams import BorderExcess, ShiftConsistency, border_excess, seam_index, shift_consistency
from seedvr2_lab.metrics.table import METRICS, Metric, measure
from seedvr2_lab.metrics.texture import high_frequency_ratio, spectrum_distance, texture_distance
from seedvr2_lab.metrics.weights import fetch_weights

__all__ = [
    "METRICS",
    "BorderExcess",
    "Metric",
    "ShiftConsistency",
    "Unavailable",
    "border_excess",
    "fetch_weights",
    "flicker",
    "high_frequency_ratio",
    "measure",
    "optical_flow",
    "psnr",
    "seam_index",
    "shift_consistency",
    "spectrum_distance",
    "ssim",
    "texture_distance",
    "warping_error",
]
