"""The benchmarks of the paper's Table 1: where their clips lie, what does not fit, and the published figures."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from seedvr2_lab.console import InputError, progress
from seedvr2_lab.media.pictures import list_frames, natural_key
from seedvr2_lab.media.video import VideoReader

LAYOUT = """\
One folder for each benchmark, named as in the paper; those that are missing become rows without figures:

  DATA/SPMCS, DATA/UDM10, DATA/REDS30, DATA/YouHQ40   footage with originals
    gt/CLIP     the originals
    lq/CLIP     their low-quality twins, a quarter of height and width; without lq/ they are made from the originals
  DATA/VideoLQ, DATA/AIGC28                           footage as it was found
    lq/CLIP     the footage

A CLIP is a folder of frames (pictures of one size, in natural order), a video file, or a picture. gt/ and lq/ match by
name: the suffix does not count, and numbers count by value, so lq/007.mp4 is the twin of gt/7/. Links will do:

  ln -s /data/REDS/val_sharp DATA/REDS30/gt
  ln -s /data/VideoLQ/Input  DATA/VideoLQ/lq

Two folders given as --restored and --reference match in the same way, picture by picture where pictures lie directly in
them; frames of a clip belong into a folder of their own there."""

WITH_ORIGINAL = ("psnr", "ssim", "lpips", "dists")
WITHOUT_ORIGINAL = ("niqe", "musiq", "clipiqa", "dover")
PUBLISHED = ("SeedVR2-3B", "SeedVR2-7B")


class Benchmark(NamedTuple):
    clips: int  # as published
    metrics: tuple[str, ...]
    paper: tuple[tuple[float, ...], ...]  # Table 1: the metrics' figures for each of PUBLISHED


BENCHMARKS = {
    "SPMCS": Benchmark(30, WITH_ORIGINAL, ((22.97, 0.646, 0.306, 0.131), (22.90, 0.638, 0.322, 0.134))),
    "UDM10": Benchmark(10, WITH_ORIGINAL, ((25.61, 0.784, 0.218, 0.106), (26.26, 0.798, 0.203, 0.101))),
    "REDS30": Benchmark(30, WITH_ORIGINAL, ((21.90, 0.598, 0.350, 0.135), (22.27, 0.606, 0.337, 0.127))),
    "YouHQ40": Benchmark(40, WITH_ORIGINAL, ((22.10, 0.595, 0.284, 0.122), (22.46, 0.600, 0.274, 0.110))),
    "VideoLQ": Benchmark(50, WITHOUT_ORIGINAL, ((4.687, 51.09, 0.295, 8.176), (4.948, 45.76, 0.257, 7.236))),
    "AIGC28": Benchmark(28, WITHOUT_ORIGINAL, ((3.801, 62.99, 0.561, 15.77), (4.015, 59.97, 0.497, 15.55))),
}


@dataclass(frozen=True)
class Clip:
    """A clip of a benchmark, without original for footage as it was found, without low for what is to be made."""

    name: str
    low: VideoReader | None
    original: VideoReader | None


def find_benchmarks(data: Path, names: tuple[str, ...], scale: int) -> dict[str, list[Clip]]:
    """The clips of these benchmarks, or of all that lie in `data`.

    Everything is opened and compared here, so that a fault in the last clip is known before hours of work.

    Raises:
        InputError: an unknown name, a named benchmark that is not there, nothing there at all, or a layout with faults.
    """
    for name in names:
        if name not in BENCHMARKS:
            raise InputError(f"there is no benchmark '{name}': choose from {', '.join(BENCHMARKS)}")
        if not (data / name).is_dir():
            raise InputError(f"{data / name} is not a folder: lay {name} out there as `evaluate --layout` says")
    found = [name for name in BENCHMARKS if (name in names if names else (data / name).is_dir())]
    if not found:
        raise InputError(
            f"{data} holds none of the folders {', '.join(BENCHMARKS)}: lay them out as `evaluate --layout` says"
        )
    return {name: _clips(data / name, name, scale) for name in found}


def find_pairs(restored: Path, reference: Path) -> list[tuple[str, VideoReader, VideoReader]]:
    """The clips that two files or two folders have in common, which must be all of them, with a name for each.

    Raises:
        InputError: names, counts of frames or sizes differ, or something cannot be read.
    """
    if restored.is_file() or reference.is_file():
        pairs = [(reference.stem, restored, reference)]
    else:
        pairs = _matched(restored, reference)
    return [
        (name, *_fitting(VideoReader(first), VideoReader(second)))
        for name, first, second in progress(pairs, "check pairs", unit="clip")
    ]


def cut_size(reader: VideoReader, scale: int) -> tuple[int, int]:
    """Height and width without the rows and columns at the bottom and the right that the scale leaves over."""
    return reader.info.height // scale * scale, reader.info.width // scale * scale


def _clips(folder: Path, name: str, scale: int) -> list[Clip]:
    lows, originals, title = folder / "lq", folder / "gt", f"check {name}"
    if BENCHMARKS[name].metrics == WITHOUT_ORIGINAL:
        paths = progress(_list_clips(lows), title, unit="clip")
        return [Clip(_name(path), VideoReader(path), None) for path in paths]
    if not lows.is_dir():
        paths = progress(_list_clips(originals), title, unit="clip")
        return [Clip(_name(path), None, VideoReader(path)) for path in paths]
    pairs = progress(_matched(lows, originals), title, unit="clip")
    return [Clip(clip, *_fitting(VideoReader(low), VideoReader(original), scale)) for clip, low, original in pairs]


def _fitting(low: VideoReader, original: VideoReader, scale: int = 1) -> tuple[VideoReader, VideoReader]:
    """Both, if they have as many frames and sizes that the scale connects."""
    if low.info.frames != original.info.frames:
        raise InputError(
            f"{low.path} has {low.info.frames} frames, {original.path} {original.info.frames}: give as many"
        )
    height, width = low.info.height * scale, low.info.width * scale
    if (height, width) != cut_size(original, scale):
        sizes = f"{low.info.width}x{low.info.height}, {original.path} {original.info.width}x{original.info.height}"
        raise InputError(f"{low.path} is {sizes}: give " + (f"x{scale} of it" if scale > 1 else "the same size"))
    return low, original


def _matched(first: Path, second: Path) -> list[tuple[str, Path, Path]]:
    """The clips of two folders by their names, in natural order."""
    ours, theirs = ({_key(path): path for path in _list_clips(folder)} for folder in (first, second))
    for folder, paths, others in ((first, ours, theirs), (second, theirs, ours)):
        if lonely := [path.name for key, path in paths.items() if key not in others]:
            shown = ", ".join(lonely[:3]) + (f" and {len(lonely) - 3} more" if len(lonely) > 3 else "")
            raise InputError(f"{shown} lies in {folder} alone: give every clip one name in {first} and {second}")
    return [(_name(theirs[key]), path, theirs[key]) for key, path in ours.items()]


def _list_clips(folder: Path) -> list[Path]:
    """All that is not hidden, in natural order: files and folders of frames."""
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: lay the clips out as `seedvr2-lab evaluate --layout` says")
    paths = sorted((path for path in folder.iterdir() if not path.name.startswith(".")), key=natural_key)
    if not paths:
        raise InputError(f"{folder} is empty: put clips into it, see `seedvr2-lab evaluate --layout`")
    for path in paths:
        if path.is_dir() and not list_frames(path):
            raise InputError(f"{path} holds no frames: put pictures into it, or take it away")
    names = {}
    for path in paths:
        if (twin := names.setdefault(_key(path), path)) != path:
            raise InputError(f"{twin} and {path.name} have one name: take one of them away")
    return paths


def _name(path: Path) -> str:
    return path.name if path.is_dir() else path.stem


def _key(path: Path) -> tuple:
    """What a clip is matched by."""
    return tuple(int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", _name(path)) if part)
