"""What an evaluation restores, as crops side by side."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from seedvr2_lab.console import InputError
from seedvr2_lab.lab.figures import PAGE_WIDTH, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIZE = 64, 96  # pixels, height and width of a crop
ORIGINAL = "original"


class Gallery:
    """Collects one crop of every result: of the middle frame, where the original has most contrast."""

    def __init__(self):
        self.crops: dict[str, dict[str, Tensor]] = {}  # case -> method -> (H, W, 3) in [0, 1]
        self._places: dict[str, tuple[int, int]] = {}

    def __call__(self, case: str, method: str, clip_CTHW: Tensor) -> None:
        """Of a case the original has to come first."""
        frame_CHW = clip_CTHW[:, clip_CTHW.shape[1] // 2]
        if method == ORIGINAL:
            self._places[case] = _most_contrast(frame_CHW)
        top, left = self._places[case]
        crop = frame_CHW[:, top : top + SIZE[0], left : left + SIZE[1]].permute(1, 2, 0)
        self.crops.setdefault(case, {})[method] = crop

    def figure(self) -> "Figure":
        """A row for each method, a column for each case; the original is the last row."""
        methods = [name for name in next(iter(self.crops.values())) if name != ORIGINAL] + [ORIGINAL]
        width = PAGE_WIDTH / len(self.crops)
        height = len(methods) * (width * SIZE[0] / SIZE[1] + 0.05) + 0.3
        figure, axes = new_figure(len(methods), len(self.crops), height, squeeze=False)
        for row, method in zip(axes, methods, strict=True):
            for here, (case, crops) in zip(row, self.crops.items(), strict=True):
                here.imshow(crops[method].numpy())
                here.set(xticks=[], yticks=[])
                here.grid(False)
                here.spines[:].set_visible(False)
                if method == methods[0]:
                    here.set_title(case, size=9)
            row[0].set_ylabel(method, size=9)
        return figure

    def save(self, path: str | Path) -> None:
        """As a picture of the kind that the suffix names."""
        try:
            self.figure().savefig(path, dpi=150)
        except (OSError, ValueError) as error:
            raise InputError(f"cannot write the picture {path}: {str(error).splitlines()[0]}") from None


def _most_contrast(frame_CHW: Tensor) -> tuple[int, int]:
    """Top and left of the crop with the largest variance."""
    step, grey = 8, frame_CHW.mean(0)[None, None]
    size = tuple(min(side, room) for side, room in zip(SIZE, grey.shape[2:], strict=True))
    mean, square = (F.avg_pool2d(values, size, stride=step)[0, 0] for values in (grey, grey**2))
    top, left = divmod(int((square - mean**2).argmax()), mean.shape[1])
    return step * top, step * left
