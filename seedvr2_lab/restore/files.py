"""Restoring files and folders: the one call behind the command line, the notebooks and the widgets."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch

from seedvr2_lab.console import InputError, check_device, progress
from seedvr2_lab.model.weights import Dtype
from seedvr2_lab.restore import memory
from seedvr2_lab.restore.partial import require_decision
from seedvr2_lab.restore.restorer import Restorer
from seedvr2_lab.restore.run import PHASES, run
from seedvr2_lab.restore.settings import Cancelled, Settings
from seedvr2_lab.restore.tasks import Options, Size, Task, find_tasks

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
PROBE_SIDE = 96  # pixels of the clip that tells a dry run how fast the machine is

OnProgress = Callable[[int, int, float | None], None]  # (frames done, of all, seconds left if known)


@dataclass
class Summary:
    """What `restore` did, or would do in a dry run.

    Attributes:
        clips, frames: in all targets.
        height, width: of the last one.
        seconds: by phase. "read" and "write" run beside the others, which wait for them during "wait".
        total_seconds: from the call to its end; in a dry run, what the rest would take.
        needed_bytes: the estimate of the memory beyond the models, of the clip that needs most.
        peak_bytes: the most that the process (on a GPU: its tensors) has held so far.
        held_bytes: the same during each phase that computes; empty where the system does not tell.
    """

    clips: int = 0
    frames: int = 0
    height: int = 0
    width: int = 0
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(["load", "read", "wait", *PHASES.values(), "color", "write"], 0.0)
    )
    total_seconds: float = 0.0
    needed_bytes: int = 0
    peak_bytes: int = 0
    held_bytes: dict[str, int] = field(default_factory=dict)


def restore(
    source: str | Path,
    target: str | Path,
    *,
    scale: float | None = None,
    height: int | None = None,
    width: int | None = None,
    area: int | None = None,
    model: str | Path | Restorer = "tiny",
    device: str = "cpu",
    dtype: str | Dtype = None,
    start: float = 0.0,
    end: float | None = None,
    rate: float | None = None,
    codec: str = "h264",
    tolerant: bool = False,
    overwrite: bool = False,
    resume: bool = False,
    dry_run: bool = False,
    on_progress: OnProgress = lambda done, total, left: None,
    cancelled: Callable[[], bool] = lambda: False,
    **settings,
) -> Summary:
    """Restore a video, a picture or a folder: same frames, same times, same audio, exactly the size asked for.

    Args:
        source, target: files, or folders (`tasks.find_tasks` says what a folder means). A target appears under its name
            only when complete; until then what is finished lies in TARGET.partial.
        scale: height and width of the result over those of the source, 4 by default.
        height, width: of the result instead of a scale; one alone keeps the aspect ratio.
        area: pixels of the result, aspect ratio kept.
        model: a name, a weight file, or a restorer that is loaded already (then device and dtype are its own).
        dtype: a key of `DTYPES` or a torch.dtype; by default float32 for our own models, bfloat16 for published ones.
        start, end: the stretch to restore, seconds after the first frame.
        rate: frames per second of a folder of frames.
        codec: a key of `video_writer.CODECS`.
        tolerant: restore what can be read of a damaged source.
        overwrite: replace an existing target, throw an unfinished run away.
        resume: go on from an unfinished run; the result is that of an unbroken one.
        dry_run: write nothing, but check everything and estimate memory and time.
        on_progress: called whenever frames are finished.
        cancelled: asked between calls of the networks.
        settings: fields of `Settings`: seed, steps, guidance, strength, color, chunk, overlap, tile.

    Raises:
        InputError: a file, size or option cannot be used, or the run did not fit. Nothing half-written stands under the
            target's name.
        Cancelled: `cancelled` said so. Nothing stands under the target's name.
    """
    began, summary = time.perf_counter(), Summary()
    how = Settings(**settings)
    options = Options(Size(scale, height, width, area), start, end, rate, codec, tolerant, overwrite, resume)
    target = Path(target)
    dtype = _dtype(dtype)
    check_device(device)
    tasks = find_tasks(Path(source), target, options)
    for task in tasks:
        require_decision(task.target, resume, overwrite)
    restorer = model if isinstance(model, Restorer) else Restorer.load(model, device=device, dtype=dtype)
    restorer.check_guidance(how)
    how.lengths(restorer.vae.config.temporal_factor)
    summary.seconds["load"] = time.perf_counter() - began
    for task in tasks:
        summary.needed_bytes = max(summary.needed_bytes, memory.require(restorer, task.size, len(task.places), how))
    total = sum(len(task.places) for task in tasks)
    if dry_run:
        summary.clips, summary.frames = len(tasks), total
        summary.total_seconds = sum(_estimated_seconds(restorer, task, how) for task in tasks)
        summary.height, summary.width = tasks[-1].size if tasks else (0, 0)
        summary.peak_bytes = memory.peak(restorer.device)
        return summary

    def check() -> None:
        if cancelled():
            raise Cancelled

    before = memory.peak(restorer.device)  # a GPU's counter starts again with each phase
    with progress((), "restore", total=total, unit="frame") as bar:
        advance = _Progress(total, bar, on_progress)
        for task in tasks:
            check()
            task.target.parent.mkdir(exist_ok=True)  # a folder of results
            summary.frames += run(task, restorer, how, summary.seconds, summary.held_bytes, check, advance)
            summary.clips += 1
            summary.height, summary.width = task.size
    summary.total_seconds = time.perf_counter() - began
    summary.peak_bytes = max(before, memory.peak(restorer.device), *summary.held_bytes.values())
    return summary


class _Progress:
    """Tells the bar and the caller how far it is, by the speed of the frames that were restored in this run."""

    def __init__(self, total: int, bar, on_progress: OnProgress):
        self._total, self._bar, self._on_progress = total, bar, on_progress
        self._done = self._restored = 0
        self._began = time.perf_counter()

    def __call__(self, frames: int, kept: bool = False) -> None:
        self._done += frames
        self._restored += 0 if kept else frames
        left = None
        if self._restored:
            left = (time.perf_counter() - self._began) / self._restored * (self._total - self._done)
        self._bar.update(frames)
        self._on_progress(self._done, self._total, left)


def _dtype(name: str | Dtype) -> Dtype:
    if name is None or isinstance(name, torch.dtype):
        return name
    if name not in DTYPES:
        raise InputError(f"dtype '{name}' is unknown: choose from {', '.join(DTYPES)}")
    return DTYPES[name]


def _estimated_seconds(restorer: Restorer, task: Task, settings: Settings) -> float:
    """From the second of two runs of a small clip: the first call of a process is slow."""
    factor = restorer.vae.config.temporal_factor
    chunk, overlap = settings.lengths(factor)
    height, width = (min(side, PROBE_SIDE) for side in task.size)
    clip = torch.rand(min(chunk, 1 + 2 * factor), 3, height, width)
    for _ in range(2):
        since = time.perf_counter()
        restorer.chunk(clip, (height, width), settings, 0, lambda name, value: None, lambda: None)
    by_pixel = (time.perf_counter() - since) / (len(clip) * height * width)
    frames = len(task.places)
    if frames > chunk:
        frames *= chunk / (chunk - overlap)
    return by_pixel * frames * task.size[0] * task.size[1]
