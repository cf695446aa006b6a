"""Training clips from one's own folder, and batches prepared ahead by worker processes.

Whatever draws batches from a generator is a `Source`: `ClipFolder(...)` as well as `partial(sample_clips, "training")`.
"""

import hashlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import torch
from einops import rearrange
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from seedvr2_lab.console import InputError, progress
from seedvr2_lab.media.clips import camera_clip
from seedvr2_lab.media.pictures import PICTURES, list_frames, natural_key
from seedvr2_lab.media.video import VideoReader

Batch = TypeVar("Batch")


class ClipFolder:
    """Random clips from a folder: from videos of any size and length, folders of frames, and pictures.

    Videos are looked for at any depth. Pictures that lie directly in the folder stand alone, and a camera flies over
    them as over the bundled photographs; pictures in a folder below are the frames of one video, in natural order.
    What cannot give a clip of the given length and size is left out, with one warning that counts it.

    Args:
        folder: looked through once, now.
        frames, size: the longest and largest (height, width) clip that will be asked for.

    Raises:
        InputError: no such folder, or nothing in it can be used; while drawing also a file that is damaged inside.
    """

    def __init__(self, folder: str | Path, frames: int, size: tuple[int, int]):
        self.folder, self.frames, self.size = Path(folder), frames, size
        if not self.folder.is_dir():
            raise InputError(f"{folder}: no such folder; name one with videos or pictures in it")
        self.readers, left_out = [], []
        for path in progress(_entries(self.folder), "check clips", unit="file"):
            try:
                reader = VideoReader(path)
            except InputError as error:
                left_out.append(("unreadable", str(error)))
                continue
            if flaw := self._flaw(reader):
                left_out.append((flaw, f"{path}: {reader.info.frames} of {reader.info.width}x{reader.info.height}"))
            else:
                self.readers.append(reader)
        if not self.readers:
            wanted = f"{frames} frames of {size[1]}x{size[0]}"
            example = f" (for example {left_out[0][1]})" if left_out else ""
            raise InputError(f"{folder}: nothing in it gives a clip of {wanted}{example}; name another folder")
        if left_out:
            counts = ", ".join(f"{count} {flaw}" for flaw, count in Counter(flaw for flaw, _ in left_out).items())
            total = len(left_out) + len(self.readers)
            warnings.warn(f"{folder}: {len(left_out)} of {total} left out: {counts} ({left_out[0][1]})", stacklevel=2)

    def __len__(self) -> int:
        """How many videos and pictures there are."""
        return len(self.readers)

    def clip(self, index: int, frames: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        """A random stretch, crop and flip of one video or picture, (3, T, *size) in [0, 1]."""
        if frames > self.frames or size[0] > self.size[0] or size[1] > self.size[1]:
            raise ValueError(f"this folder was checked for up to {self.frames} frames of {self.size}")
        reader = self.readers[index]
        (h, w), info = size, reader.info

        def below(count: int) -> int:
            return int(torch.randint(count, (), generator=generator))

        if _is_still(reader):
            picture = torch.from_numpy(reader.sample([0]).frames_THWC[0])
            clip = camera_clip(rearrange(picture, "H W C -> C H W") / 255, frames, size, generator)
        else:
            first, top, left = below(info.frames - frames + 1), below(info.height - h + 1), below(info.width - w + 1)
            frames_THWC = reader.sample(range(first, first + frames)).frames_THWC[:, top : top + h, left : left + w]
            clip = rearrange(torch.from_numpy(frames_THWC), "T H W C -> C T H W") / 255
        return clip.flip(-1) if below(2) else clip

    def __call__(self, batch: int, frames: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        """A batch of random clips, (B, 3, T, *size) in [0, 1]; every video and picture is equally likely."""
        picks = torch.randint(len(self), (batch,), generator=generator).tolist()
        return torch.stack([self.clip(index, frames, size, generator) for index in picks])

    def identity(self) -> str:
        """Changes with the files: 16 hexadecimal digits of their names, sizes and times."""
        paths = [path for r in self.readers for path in (list_frames(r.path) if r.path.is_dir() else [r.path])]
        found = [(str(p.relative_to(self.folder)), p.stat().st_size, p.stat().st_mtime_ns) for p in paths]
        return hashlib.sha256(repr(found).encode()).hexdigest()[:16]

    def _flaw(self, reader: VideoReader) -> str:
        if reader.info.height < self.size[0] or reader.info.width < self.size[1]:
            return "too small"
        return "too short" if reader.info.frames < self.frames and not _is_still(reader) else ""


def prepare(batch: Callable[[int], Batch], steps: range, workers: int = 0) -> Iterator[Batch]:
    """batch(step) for every step, in order, computed ahead by that many processes (0: none, when asked for).

    With `batch` a pure function of the step, the bytes depend neither on the workers nor on the first step: a run goes
    on in the middle of anything. Where processes are spawned instead of forked (macOS, Windows, Python 3.14), `batch`
    has to be picklable.
    """
    untouched = torch.Generator()  # else the loader would draw from the global one
    loader = DataLoader(_Steps(batch), batch_size=None, sampler=steps, num_workers=workers, generator=untouched)
    for result in loader:
        if isinstance(result, InputError):
            raise result
        yield result


class _Steps(Dataset):
    def __init__(self, batch: Callable[[int], Batch]):
        self.batch = batch

    def __getitem__(self, step: int) -> Batch | InputError:
        try:
            return self.batch(step)
        except InputError as error:  # raised, it would reach the user inside many lines of the worker's traceback
            return error


def _entries(folder: Path) -> list[Path]:
    """What may hold a clip, in natural order: lone pictures, files that are no pictures, folders of pictures."""
    entries = []
    for path in folder.rglob("*"):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        if path.is_dir():
            entries += [path] if list_frames(path) else []
        elif path.suffix.lower() not in PICTURES or path.parent == folder:
            entries.append(path)
    return sorted(entries, key=natural_key)


def _is_still(reader: VideoReader) -> bool:
    return reader.info.frames == 1
