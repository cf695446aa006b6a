"""The metrics of pyiqa, without its surprises.

pyiqa fetches weights whenever a metric is made, takes an empty weight file, and answers some degenerate frames with
nonsense. Here nothing is fetched: a metric without its files, or with wrong ones, is unavailable at once. pyiqa itself
is imported only when one of its metrics can be had, for its licence is noncommercial.
"""

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from seedvr2_lab.metrics.fidelity import frames_of
from seedvr2_lab.metrics.weights import ALEXNET, DISTS, LPIPS, MUSIQ, NIQE, RN50, VGG16, WeightFile
from seedvr2_lab.metrics.weights import problem as weights_problem


@dataclass(frozen=True)
class Unavailable:
    """Stands where a number would; prints as `unavailable: <why>`, whatever the format."""

    why: str

    def __str__(self) -> str:
        return f"unavailable: {self.why}"

    def __format__(self, _: str) -> str:
        return str(self)


class LibraryMetric(NamedTuple):
    files: tuple[WeightFile, ...] = ()  # the metric's own, then what it has torchvision load
    argument: str = "pretrained_model_path"  # that pyiqa takes the metric's own file by


LIBRARY = {  # by pyiqa's names
    "lpips": LibraryMetric((LPIPS, ALEXNET)),
    "dists": LibraryMetric((DISTS, VGG16)),
    "niqe": LibraryMetric((NIQE,)),
    "musiq": LibraryMetric((MUSIQ,)),
    "clipiqa": LibraryMetric((RN50,), argument="backbone"),
    **dict.fromkeys(("ms_ssim", "fsim", "vsi", "gmsd", "nlpd", "vif", "piqe"), LibraryMetric()),
}


def score(name: str, restored: Tensor, reference: Tensor | None, root: Path) -> float | Unavailable:
    """A metric of LIBRARY, the mean over frames of (C, T, H, W) or (C, H, W); `root` is the folder of the weights."""
    for file in LIBRARY[name].files:
        if why := weights_problem(file, root):
            return Unavailable(why)
    if len(restored) != 3:
        return Unavailable(f"frames have {len(restored)} channels, {name} needs red, green and blue")
    clips = [frames_of(clip).float().clamp(0, 1) for clip in (restored, reference) if clip is not None]
    flat = (clips[-1].amax((1, 2, 3)) - clips[-1].amin((1, 2, 3)) < 1 / 255).nonzero()
    if len(flat):
        whose = "the reference" if reference is not None else "the restoration"
        return Unavailable(f"frame {int(flat[0])} of {whose} is flat")
    try:
        metric = _metric(name, root)
        values = [float(metric(*(frame[None] for frame in frames))) for frames in zip(*clips, strict=True)]
    except ModuleNotFoundError as error:
        return Unavailable(f"the package {error.name} is not installed")
    except Exception as error:  # whatever its arithmetic trips over: no metric may end an evaluation
        return Unavailable(f"pyiqa fails with {type(error).__name__}: {' '.join(str(error).split())}")
    return sum(values) / len(values)


@lru_cache
def _metric(name: str, root: Path) -> nn.Module:
    """The metric with its weights. Only for files without a `problem`: pyiqa unpickles them, and fetches others."""
    import pyiqa

    spec = LIBRARY[name]
    options = {spec.argument: str(root / spec.files[0].folder / spec.files[0].name)} if spec.files else {}
    with _torch_hub(root), redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
        return pyiqa.create_metric(name, device=torch.device("cpu"), **options)


@contextmanager
def _torch_hub(root: Path) -> Iterator[None]:
    """torchvision looks for its weights in the folder of torch.hub."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(root)
    try:
        yield
    finally:
        torch.hub.set_dir(before)
