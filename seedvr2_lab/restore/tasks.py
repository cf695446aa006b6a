"""What there is to restore: each clip with its source, its target and the size it gets, checked before any work."""

from dataclasses import dataclass
from fractions import Fraction
from math import isfinite
from pathlib import Path
from typing import Any

from seedvr2_lab.console import InputError
from seedvr2_lab.media.pictures import PICTURES, list_frames, natural_key
from seedvr2_lab.media.transform import area_size
from seedvr2_lab.media.video import VideoReader
from seedvr2_lab.media.video_writer import VIDEOS, VideoWriter

FOUND = (*VIDEOS, ".avi", ".ts", ".mts", ".m2ts", ".mpg", ".mpeg", ".wmv", ".flv", ".3gp", ".ogv", ".vob", ".gif")
USUAL_SCALE, MOST_SCALE = 4, 16
LARGEST_SIDE = 2**16  # pixels; encoders and picture formats end there or before


@dataclass(frozen=True)
class Size:
    """How large results become: by one of these, by height and width together, or four times as large."""

    scale: float | None = None
    height: int | None = None
    width: int | None = None
    area: int | None = None  # pixels

    def __post_init__(self):
        given = [name for name in ("scale", "height", "width", "area") if getattr(self, name) is not None]
        if len(given) > 1 and given != ["height", "width"]:
            raise InputError(f"both {given[0]} and {given[1]} were given: give one of them")
        if self.scale is not None and not 0 < self.scale <= MOST_SCALE:
            raise InputError(f"scale {self.scale:g} is out of range: give a number above 0 and at most {MOST_SCALE}")
        for name in ("height", "width", "area"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise InputError(f"{name} {value} is not a size: give at least 1")

    def of(self, height: int, width: int) -> tuple[int, int]:
        """Height and width for a source of this height and width, its aspect ratio kept unless both were given."""
        if self.area is not None:
            size = area_size((height, width), (self.area, 1))
        elif self.height is not None and self.width is not None:
            size = self.height, self.width
        elif self.height is not None:
            size = self.height, round(width * self.height / height)
        elif self.width is not None:
            size = round(height * self.width / width), self.width
        else:
            size = tuple(round(side * (self.scale or USUAL_SCALE)) for side in (height, width))
        size = max(1, size[0]), max(1, size[1])
        if max(size) > LARGEST_SIDE:
            raise InputError(f"{size[1]}x{size[0]} is larger than any file can be: give a smaller size")
        return size


@dataclass(frozen=True)
class Options:
    """How sources are read and targets are written."""

    size: Size = Size()
    start: float = 0.0  # seconds after the first frame
    end: float | None = None
    rate: float | None = None  # frames per second of a folder of frames
    codec: str = "h264"
    tolerant: bool = False
    overwrite: bool = False
    resume: bool = False

    def __post_init__(self):
        if not (isfinite(self.start) and self.start >= 0):
            raise InputError(f"start {self.start:g} is out of range: give seconds from 0")
        if self.end is not None and not (isfinite(self.end) and self.end > self.start):
            raise InputError(f"end {self.end:g} is not after start {self.start:g}: give a later one")
        if self.rate is not None and not 0 < self.rate <= 1000:
            raise InputError(f"rate {self.rate:g} is out of range: give frames per second, at most 1000")


@dataclass(frozen=True)
class Task:
    """One clip to restore."""

    source: Path
    target: Path
    reader: VideoReader
    places: range  # of its frames
    size: tuple[int, int]
    options: Options

    @property
    def is_cut(self) -> bool:
        return len(self.places) < self.reader.info.frames

    @property
    def origin(self) -> Fraction:
        """The time in the source that is 0 in the target: a stretch that was cut out begins there."""
        return self.reader.time(self.places[0]) if self.is_cut else Fraction(0)

    def writer(self, workplace: Path | None = None) -> VideoWriter:
        info, audio, span = self.reader.info, None, None
        if info.has_audio and self.target.suffix.lower() in VIDEOS:
            audio = self.source
        if self.is_cut:
            span = self.origin, self.reader.time(self.places[-1]) + 1 / info.rate
        return VideoWriter(
            self.target,
            *self.size,
            like=info,
            audio_from=audio,
            audio_span=span,
            codec=self.options.codec,
            workplace=workplace,
        )

    def identity(self) -> dict[str, Any]:
        """What of the source decides the frames."""
        files = list_frames(self.source) if self.source.is_dir() else [self.source]
        return {
            "source": [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files],
            "stretch": [self.places.start, self.places.stop],
            "size": list(self.size),
        }


def find_tasks(source: Path, target: Path, options: Options) -> list[Task]:
    """The clips of a source; one for a video, a picture, and a folder of frames.

    A folder holds the frames of one clip if the target is a video or a rate is given. Else every video and picture in
    it is a clip of its own, and the target a folder of the same names. With `resume`, those that are there are done.

    Raises:
        InputError: something cannot be read or written. Nothing has been written then.
    """
    if source.is_dir() and options.rate is None and not target.suffix:
        return _tasks_of_folder(source, target, options)
    return [_task(source, target, options)]


def _tasks_of_folder(source: Path, target: Path, options: Options) -> list[Task]:
    known = (*FOUND, *PICTURES)
    paths = [p for p in source.iterdir() if p.suffix.lower() in known and p.is_file() and not p.name.startswith(".")]
    if not paths:
        raise InputError(f"{source}: no video and no picture lies in this folder; name another")
    if target.exists() and (not target.is_dir() or target.samefile(source)):
        raise InputError(f"{target}: is no folder for the results of {source}; name a new one")
    if not target.parent.is_dir():
        raise InputError(f"{target}: {target.parent} is not a folder; create it first")
    targets: dict[Path, Path] = {}
    for path in sorted(paths, key=natural_key):
        suffix = path.suffix if path.suffix.lower() in (*VIDEOS, *PICTURES) else ".mp4"
        goal = target / f"{path.stem}{suffix}"
        if goal in targets:
            raise InputError(f"{path} and {targets[goal].name} would both become {goal.name}: rename one of them")
        targets[goal] = path
    pending = [(path, goal) for goal, path in targets.items() if not (options.resume and goal.exists())]
    return [_task(path, goal, options, folder=target) for path, goal in pending]


def _task(source: Path, target: Path, options: Options, folder: Path | None = None) -> Task:
    """Checked as far as is possible without work; `folder` is where targets will lie, still to be made."""
    in_use = any(target.iterdir()) if target.is_dir() else target.exists()
    if in_use and not options.overwrite:
        raise InputError(f"{target} exists: give another name, or --overwrite")
    if options.rate is not None and not source.is_dir():
        raise InputError(f"rate belongs to a folder of frames and {source} is none: leave it out")
    rate = Fraction(options.rate or 25).limit_denominator(1001)  # 29.97 is meant as 30000/1001
    reader = VideoReader(source, tolerant=options.tolerant, rate=rate)
    places = reader.places(options.start, options.end)
    if not places:
        length = float(reader.info.frames / reader.info.rate)
        raise InputError(f"{source} has no frame from start {options.start:g}: it lasts {length:g} s")
    if target.suffix.lower() in PICTURES and len(places) > 1:
        raise InputError(f"{target} is a picture but {source} has {len(places)} frames: end the target in .mp4")
    task = Task(source, target, reader, places, options.size.of(reader.info.height, reader.info.width), options)
    if folder is None or folder.exists():
        task.writer().check()
    return task
