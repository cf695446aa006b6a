"""What the restoration demo does, without any widget: take a clip, degrade it, restore it, measure it, picture it."""

import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import lru_cache
from io import BytesIO
from itertools import islice
from math import sqrt
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from seedvr2_lab.console import InputError
from seedvr2_lab.media.clips import EVALUATION, camera_clip, load_picture
from seedvr2_lab.media.degrade import PRESETS, Degradation, degrade, resize
from seedvr2_lab.media.recipe import Recipe
from seedvr2_lab.media.video import VideoReader
from seedvr2_lab.media.video_writer import VideoWriter
from seedvr2_lab.metrics import Unavailable, measure
from seedvr2_lab.restore import Restorer, Summary, restore

BUNDLED_SIZE, BUNDLED_RATE = (144, 256), 25
AS_IT_IS, BY_HAND = "as it is", "by hand"  # beside the presets
MOST_FRAMES = 240  # a demo holds its clip in memory; the command line streams
SHOWN_FRAMES = 64  # the most that go to a browser, evenly spaced
SHOWN_PIXELS = 16_000_000  # of all frames of one version; larger clips are shown scaled
QUALITY = 92  # of the JPEGs in the browser; metrics come from the pixels themselves
FRAME_METRICS, CLIP_METRICS = ("psnr", "ssim"), ("psnr", "ssim", "texture")

Advance = Callable[[str, float], None]  # (what is being done, share of it in [0, 1]); may raise to stop


@dataclass(frozen=True)
class Choices:
    """What a user of the demo chooses.

    Attributes:
        clip: one of `EVALUATION`, moved by a seeded camera, or the path of a video, picture or folder.
        frames: how many of its first frames are taken.
        degradation: `AS_IT_IS`, `BY_HAND` (the next four fields), or a key of `PRESETS`.
        blur, noise, jpeg: as in `Degradation`, constant.
        shrink: height and width of the original over those of the degraded clip.
        seed: of camera, degradation and restoration.
        model, scale, strength, color: as in `restore`.
    """

    clip: str = "chelsea"
    frames: int = 9
    degradation: str = BY_HAND
    blur: float = 1.2
    noise: float = 0.02
    jpeg: int = 70
    shrink: int = 4
    seed: int = 0
    model: str = "tiny"
    scale: float = 4.0
    strength: float = 1.0
    color: str = "wavelet"

    def __post_init__(self):
        if not 1 <= self.frames <= MOST_FRAMES:
            raise InputError(f"{self.frames} frames: give 1 to {MOST_FRAMES}; longer clips go through the command line")
        if not self.clip:
            raise InputError("no clip: give the path of a video or picture, or upload one")
        if self.degradation not in (AS_IT_IS, BY_HAND, *PRESETS):
            raise InputError(f"degradation '{self.degradation}' is unknown: choose from {', '.join(PRESETS)}")


@dataclass(frozen=True)
class Version:
    """One version of the clip as the browser shows it.

    Attributes:
        frames: JPEG of every shown frame.
        scores: metric -> value or None, for the clip; empty without an original.
        frame_scores: the same for every shown frame.
    """

    name: str
    frames: list[bytes]
    scores: dict[str, float | None] = field(default_factory=dict)
    frame_scores: list[dict[str, float | None]] = field(default_factory=list)


@dataclass(frozen=True)
class Prepared:
    """A clip before its restoration: the low-quality file, its pixels, and the original's if it was degraded here."""

    choices: Choices
    source: Path
    low_THWC: np.ndarray
    truth_THWC: np.ndarray | None
    times: list[Fraction]
    end: float | None  # where the restoration stops, seconds after the first frame; None at the end of the source
    original: Path | None  # the file that was degraded, where the command line can do the same
    seconds: dict[str, float]

    @property
    def places(self) -> list[int]:
        """The frames that are shown."""
        count = len(self.low_THWC)
        return sorted({round(place) for place in np.linspace(0, count - 1, min(count, SHOWN_FRAMES))})


@dataclass(frozen=True)
class Result:
    """A finished restoration."""

    choices: Choices
    target: Path
    pixels_THWC: np.ndarray
    summary: Summary
    seconds: dict[str, float]  # by phase, of everything


def prepare(choices: Choices, folder: Path, advance: Advance = lambda what, share: None) -> Prepared:
    """Take the clip and degrade it as chosen.

    Args:
        folder: for the files that are made on the way.
        advance: called between the stages.

    Raises:
        InputError: the clip cannot be read or degraded.
    """
    clock, seconds = time.perf_counter(), {}
    advance("read", 0.0)
    info, end, original = None, None, None
    if choices.clip in EVALUATION:
        generator = torch.Generator().manual_seed(choices.seed)
        clip_CTHW = camera_clip(load_picture(choices.clip), choices.frames, BUNDLED_SIZE, generator)
        known_THWC, times = (
            _pixels(clip_CTHW.transpose(0, 1)),
            [Fraction(t, BUNDLED_RATE) for t in range(choices.frames)],
        )
    else:
        reader = VideoReader(Path(choices.clip).expanduser())
        info = reader.info
        known_THWC, times = _first(reader, choices.frames)
        if len(times) < info.frames:
            end = float((times[-1] + reader.time(len(times))) / 2 - times[0])
        else:
            original = info.path
    seconds["take"] = time.perf_counter() - clock

    clock, truth_THWC, source = time.perf_counter(), None, info and info.path
    if choices.degradation != AS_IT_IS:
        low_THWC = _degraded(known_THWC, choices, advance)
        height, width = (side * choices.shrink for side in low_THWC.shape[1:3])
        truth_THWC, known_THWC = known_THWC[:, :height, :width], low_THWC
        seconds["degrade"] = time.perf_counter() - clock
    if truth_THWC is not None or info is None:
        source, end = folder / "low_quality.mkv", None
        rate = None if info else BUNDLED_RATE
        with VideoWriter(source, *known_THWC.shape[1:3], rate=rate, like=info, codec="lossless") as writer:
            writer.write(known_THWC, [time - times[0] for time in times])
    return Prepared(choices, source, known_THWC, truth_THWC, times, end, original, seconds)


def restored(
    prepared: Prepared,
    choices: Choices,
    target: Path,
    advance: Advance = lambda what, share: None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Result:
    """Restore a prepared clip into a file.

    Raises:
        InputError: a model or setting cannot be used.
        Cancelled: `cancelled` said so.
    """
    clock = time.perf_counter()
    advance("load the model", 0.0)
    restorer = _restorer(choices.model)
    loading = time.perf_counter() - clock

    def on_progress(done: int, total: int, left: float | None) -> None:
        advance("restore" + (f", {left:.0f} s left" if left else ""), done / total)

    advance("restore", 0.0)
    arguments = _arguments(choices, prepared) | dict(model=restorer, overwrite=True)
    summary = restore(prepared.source, target, **arguments, on_progress=on_progress, cancelled=cancelled)
    seconds = prepared.seconds | summary.seconds | {"load": loading}
    pixels_THWC, _ = _first(VideoReader(target), summary.frames)
    return Result(choices, target, pixels_THWC, summary, seconds)


def render_input(prepared: Prepared, advance: Advance = lambda what, share: None) -> list[Version]:
    """The clip before restoration, enlarged, and its original if known."""
    name, low_THWC, truth = "input, bicubic", prepared.low_THWC, prepared.truth_THWC
    if truth is None:  # nothing to measure: only what is shown is enlarged
        size = tuple(round(side * prepared.choices.scale) for side in low_THWC.shape[1:3])
        return [Version(name, _jpegs(_enlarged(low_THWC[prepared.places], size), range(len(prepared.places))))]
    enlarged_THWC = _enlarged(low_THWC, truth.shape[1:3])
    original = Version("original", _jpegs(truth, prepared.places))
    return [render_version(name, enlarged_THWC, prepared, advance), original]


def render_version(
    name: str, pixels_THWC: np.ndarray, prepared: Prepared, advance: Advance = lambda what, share: None
) -> Version:
    """A version of the prepared clip as the browser shows it, measured against the original where there is one."""
    frames, truth = _jpegs(pixels_THWC, prepared.places), prepared.truth_THWC
    if truth is None or truth.shape != pixels_THWC.shape:
        return Version(name, frames)
    scores = []
    for place, pair in enumerate(zip(pixels_THWC, truth, strict=True)):
        advance(f"measure {name}", place / len(truth))
        one, other = (torch.from_numpy(frame).permute(2, 0, 1) / 255 for frame in pair)
        scores.append({metric: _score(metric, one, other) for metric in FRAME_METRICS})
    clip = {metric: _mean([each[metric] for each in scores]) for metric in FRAME_METRICS}
    advance(f"measure {name}", 1.0)
    shown = [place for place in prepared.places if min(truth.shape[1:3]) >= 7]
    pair = (torch.from_numpy(clip[shown]).permute(3, 0, 1, 2) / 255 for clip in (pixels_THWC, truth))
    clip["texture"] = _score("texture", *pair) if shown else None
    return Version(name, frames, clip, [scores[place] for place in prepared.places])


def render_timing(result: Result) -> list[tuple[str, str, str]]:
    """What a restoration took: of each phase that took any time its name, seconds and, where known, memory.

    Reading and writing run beside the others, which wait for them during "wait".
    """
    held = result.summary.held_bytes
    rows = [
        (phase, f"{spent:.2f} s", f"{held[phase] / 2**30:.2f} GiB" if phase in held else "–")
        for phase, spent in result.seconds.items()
        if spent >= 0.005 and phase not in ("read", "write")
    ]
    whole = sum(spent for phase, spent in result.seconds.items() if phase not in ("read", "write"))
    rows.append(("in all", f"{whole:.2f} s", f"{result.summary.peak_bytes / 2**30:.2f} GiB"))
    return [*rows, ("a frame", f"{whole / len(result.pixels_THWC):.2f} s", "–")]


def python_code(prepared: Prepared, choices: Choices, target: str) -> str:
    """The same restoration in Python; the degradation too, where it is a preset of a file."""
    lines = ["from seedvr2_lab.restore import restore", ""]
    if prepared.truth_THWC is not None and not _repeatable(prepared):
        lines.append("# the low-quality clip was made here and lies in the demo's folder while the kernel runs")
    if _repeatable(prepared):
        lines.insert(0, "from seedvr2_lab.media.degrade import degrade_file")
        options = f'preset="{choices.degradation}", scale={choices.shrink}, seed={choices.seed}, overwrite=True'
        lines.append(f"degrade_file({str(prepared.original)!r}, {str(prepared.source)!r}, {options})")
    arguments = "".join(f", {name}={value!r}" for name, value in _arguments(choices, prepared).items())
    return "\n".join([*lines, f"restore({str(prepared.source)!r}, {target!r}, model={choices.model!r}{arguments})"])


def shell_code(prepared: Prepared, choices: Choices, target: str) -> str:
    """The same restoration on the command line."""
    lines = []
    if _repeatable(prepared):
        files = shlex.join([str(prepared.original), str(prepared.source)])
        options = f"--preset {choices.degradation} --scale {choices.shrink} --seed {choices.seed} --overwrite"
        lines.append(f"seedvr2-lab degrade {files} {options}")
    arguments = {"model": choices.model} | _arguments(choices, prepared)
    options = " ".join(f"--{name} {shlex.quote(f'{value:g}' if isinstance(value, float) else str(value))}"
                       for name, value in arguments.items())  # fmt: skip
    return "\n".join([*lines, f"seedvr2-lab restore {shlex.join([str(prepared.source), target])} {options}"])


def _repeatable(prepared: Prepared) -> bool:
    return prepared.original is not None and prepared.choices.degradation in PRESETS


def _arguments(choices: Choices, prepared: Prepared) -> dict[str, object]:
    arguments = {name: getattr(choices, name) for name in ("scale", "strength", "color", "seed")}
    return arguments if prepared.end is None else arguments | {"end": round(prepared.end, 6)}


@lru_cache(maxsize=1)
def _restorer(model: str) -> Restorer:
    return Restorer.load(model)


def _degradation(choices: Choices) -> Degradation | Recipe:
    if choices.degradation != BY_HAND:
        return replace(PRESETS[choices.degradation], scale=choices.shrink)
    constant = {name: (getattr(choices, name),) * 2 for name in ("blur", "noise", "jpeg")}
    return Degradation(scale=choices.shrink, **constant)


def _degraded(known_THWC: np.ndarray, choices: Choices, advance: Advance) -> np.ndarray:
    clip_CTHW = torch.from_numpy(known_THWC).permute(3, 0, 1, 2) / 255
    generator = torch.Generator().manual_seed(choices.seed)
    advance("degrade", 0.0)
    low_CTHW = degrade(
        clip_CTHW, generator, _degradation(choices), lambda stage, frames: advance(f"degrade: {stage.name}", 0.0)
    )
    return _pixels(low_CTHW.transpose(0, 1))


def _first(reader: VideoReader, count: int) -> tuple[np.ndarray, list[Fraction]]:
    frames: Iterator[tuple[np.ndarray, Fraction]] = islice(reader, count)
    pixels, times = zip(*frames, strict=True)
    return np.stack(pixels), list(times)


def _enlarged(low_THWC: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    frames = (torch.from_numpy(frame).permute(2, 0, 1)[None] / 255 for frame in low_THWC)
    return np.concatenate([_pixels(resize(frame, size)) for frame in frames])


def _pixels(frames_TCHW: Tensor) -> np.ndarray:
    return (frames_TCHW * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def _jpegs(pixels_THWC: np.ndarray, places: Sequence[int]) -> list[bytes]:
    height, width = pixels_THWC.shape[1:3]
    scale = min(1.0, sqrt(SHOWN_PIXELS / (len(places) * height * width)))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    encoded = []
    for place in places:
        picture, file = Image.fromarray(pixels_THWC[place]), BytesIO()
        picture = picture if scale == 1 else picture.resize(size, Image.Resampling.BICUBIC)
        picture.save(file, "JPEG", quality=QUALITY, subsampling=0)
        encoded.append(file.getvalue())
    return encoded


def _score(metric: str, one: Tensor, other: Tensor) -> float | None:
    value = measure(metric, one, other)
    return None if isinstance(value, Unavailable) else value


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
