"""One clip from file to file: read ahead, restore, write behind, and keep what is finished until all is."""

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from seedvr2_lab.console import InputError
from seedvr2_lab.restore import memory
from seedvr2_lab.restore.partial import Partial
from seedvr2_lab.restore.restorer import Check, Restorer
from seedvr2_lab.restore.settings import Settings
from seedvr2_lab.restore.tasks import Task
from seedvr2_lab.restore.threads import Behind, reading
from seedvr2_lab.restore.watch import Watch

PHASES = {"resized": "resize", "condition": "encode", "latent": "generate", "decoded": "decode"}  # by their result
WAITING = 2  # runs of frames that may wait for the writer

Seconds = dict[str, float]
Held = dict[str, int]


def run(
    task: Task,
    restorer: Restorer,
    settings: Settings,
    seconds: Seconds,
    held: Held,
    check: Check,
    advance: Callable[..., None],
) -> int:
    """Restore one clip.

    Args:
        seconds: by phase, added to. Reading and writing run beside the others.
        held: by phase, the most bytes so far, raised.
        check: called between calls of the networks; raises to stop.
        advance: told how many frames were finished since it was last called, with kept=True if by a run before.

    Returns:
        The number of frames in the target.
    """
    chunk, overlap = settings.lengths(restorer.vae.config.temporal_factor)
    partial = _partial(task, restorer, settings) if len(task.places) > chunk else None
    kept = partial.frames if partial else 0
    # A run's first frames are blended with the chunk before, which is restored again: nothing but frames is kept.
    first = max(0, kept // (chunk - overlap) - bool(overlap)) * (chunk - overlap)
    count = 0
    with ExitStack() as stack:
        if partial:
            partial.begin()
            stack.callback(partial.discard_if_empty)
        writer = stack.enter_context(task.writer(partial and partial.folder))

        def write(frames_THWC: np.ndarray, times: Sequence[Fraction]) -> None:
            nonlocal count
            writer.write(frames_THWC, [time - task.origin for time in times])
            count += len(times)

        def keep_and_write(item: tuple[Tensor, list[Fraction]]) -> None:
            frames_THWC = (item[0] * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
            if partial:
                partial.save(frames_THWC, item[1])
            write(frames_THWC, item[1])

        for frames_THWC, times in partial.read() if kept else ():
            check()
            write(frames_THWC, times)
        if kept:
            advance(kept, kept=True)
        if kept < len(task.places):
            behind = stack.enter_context(Behind(keep_and_write, WAITING))
            ahead = stack.enter_context(reading(task.reader.frames(task.places.start + first, task.places.stop), chunk))
            watch = stack.enter_context(Watch(restorer.device))

            def note(phase: str, spent: float) -> None:
                seconds[phase] += spent
                if most := watch.lap():
                    held[phase] = max(held.get(phase, 0), most)

            for frames_TCHW, times in _restored(ahead, restorer, task.size, settings, first, note, check):
                skipped = min(len(times), max(0, kept - first))
                first += skipped
                if skipped < len(times):
                    behind.put((frames_TCHW[skipped:], times[skipped:]))
                    advance(len(times) - skipped)
    if kept < len(task.places):
        seconds["read"] += ahead.seconds
        seconds["write"] += behind.seconds
    if partial:
        partial.discard()
    return count


def _restored(
    frames: Iterator[tuple[np.ndarray, Fraction]],
    restorer: Restorer,
    size: tuple[int, int],
    settings: Settings,
    first: int,
    note: Callable[[str, float], None],
    check: Check,
) -> Iterator[tuple[Tensor, list[Fraction]]]:
    """Runs of restored frames (T, 3, H, W) with their times; `note` is told of each phase and its seconds."""
    times: deque[Fraction] = deque()
    clock = time.perf_counter()

    def lap(phase: str) -> None:
        nonlocal clock
        if torch.device(restorer.device).type == "cuda":
            torch.cuda.synchronize(restorer.device)
        now = time.perf_counter()
        note(phase, now - clock)
        clock = now

    def low() -> Iterator[Tensor]:
        for frame_HWC, shown in frames:
            lap("wait")
            times.append(shown)
            yield torch.from_numpy(frame_HWC).permute(2, 0, 1) / 255
        lap("wait")

    def keep(name: str, value: Tensor) -> None:
        lap(PHASES[name])

    try:
        for _, frames_TCHW in restorer.stream(low(), size, settings, first, keep, check):
            lap("color")
            yield frames_TCHW, [times.popleft() for _ in range(len(frames_TCHW))]
            lap("wait")
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "memory" not in str(error):  # as the CPU's allocator says
            raise
        frames_at_once, _ = settings.lengths(restorer.vae.config.temporal_factor)
        room = memory.needed(restorer, size, frames_at_once, settings) * 3 // 4
        hint = memory.advice(restorer, size, frames_at_once, settings, room)
        raise InputError(f"{size[1]}x{size[0]} did not fit into the memory of {restorer.device}: {hint}") from None


def _partial(task: Task, restorer: Restorer, settings: Settings) -> Partial:
    model = restorer.generator
    chunk, overlap = settings.lengths(restorer.vae.config.temporal_factor)
    resolved = dataclasses.replace(
        settings,
        steps=settings.steps or model.steps,
        guidance=model.guidance if settings.guidance is None else settings.guidance,
        chunk=chunk,
        overlap=overlap,
    )
    job = task.identity() | dataclasses.asdict(resolved)
    job |= {"model": restorer.fingerprint(), "dtype": str(model.text.dtype), "device": restorer.device}
    return Partial(task.target, job, task.options.resume, task.options.overwrite)
