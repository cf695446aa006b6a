"""What an interrupted run leaves: the folder TARGET.partial, from which another run goes on.

It holds job.json, which is everything that decides the frames, and for every finished run of frames a lossless video
with a list of their times. A run counts when both are there; the video comes last, under its name only when complete.
"""

import json
import shutil
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from seedvr2_lab.console import InputError, write_whole
from seedvr2_lab.media.video import VideoReader
from seedvr2_lab.media.video_writer import VideoWriter

JOB = "job.json"


class Partial:
    """The finished frames of one target.

    Args:
        target: the file or folder that is to be written.
        job: name -> value of everything that decides the frames, as JSON has it.
        resume: go on from a folder that is there.
        overwrite: without `resume`, throw it away.

    Raises:
        InputError: the folder is of another job, holds something else, or is there and neither was asked for.
    """

    def __init__(self, target: Path, job: dict[str, Any], resume: bool, overwrite: bool):
        self.target, self.folder, self.job = target, partial_folder(target), job
        self._runs: list[list[Fraction]] = []
        require_decision(target, resume, overwrite)
        if resume and (before := self._begun_with()):
            self._compare(before)
            self._runs = list(self._finished())
            self._tidy()
        else:
            self.discard()

    @property
    def frames(self) -> int:
        """How many are finished."""
        return sum(len(times) for times in self._runs)

    def begin(self) -> None:
        """Make the folder."""
        try:
            self.folder.mkdir(exist_ok=True)
            write_whole(self.folder / JOB, json.dumps(self.job, indent=1))
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be written ({error.strerror}); choose another folder") from None

    def read(self) -> Iterator[tuple[np.ndarray, list[Fraction]]]:
        """The finished frames, (1, H, W, 3) one by one with their times."""
        for i, times in enumerate(self._runs):
            for (frame_HWC, _), time in zip(VideoReader(self._video(i)), times, strict=True):
                yield frame_HWC[None], [time]

    def save(self, frames_THWC: np.ndarray, times: Sequence[Fraction]) -> None:
        """Keep a further run of frames."""
        i = len(self._runs)
        write_whole(self._times(i), json.dumps([str(time) for time in times], indent=1))
        with VideoWriter(self._video(i), *frames_THWC.shape[1:3], rate=25, codec="lossless") as writer:
            writer.write(frames_THWC)
        self._runs.append(list(times))

    def discard(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def discard_if_empty(self) -> None:
        """Leave nothing behind where nothing was finished."""
        if not self._runs:
            self.discard()

    def _begun_with(self) -> dict[str, Any]:
        """The job of the frames in the folder; empty if nobody knows it, so that they must not be used."""
        try:
            before = json.loads((self.folder / JOB).read_text())
        except (OSError, ValueError):
            return {}
        return before if isinstance(before, dict) else {}

    def _compare(self, before: dict[str, Any]) -> None:
        for name, value in json.loads(json.dumps(self.job)).items():
            if (found := before.get(name)) != value:
                raise InputError(
                    f"{self.folder} was begun with another {name} ({found}, now {value}): "
                    "give what was given then, or start anew with --overwrite"
                )

    def _finished(self) -> Iterator[list[Fraction]]:
        """The times of each run, up to the first that is missing or damaged."""
        i = 0
        while self._times(i).exists() and self._video(i).exists():
            try:
                times = [Fraction(time) for time in json.loads(self._times(i).read_text())]
                whole = VideoReader(self._video(i)).info.frames == len(times)
            except (InputError, ValueError):
                return
            if not whole:
                return
            yield times
            i += 1

    def _tidy(self) -> None:
        """Remove what a killed run had not finished."""
        known = {JOB}
        for i in range(len(self._runs)):
            known |= {self._times(i).name, self._video(i).name}
        for path in self.folder.iterdir():
            if path.name not in known:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _video(self, i: int) -> Path:
        return self.folder / f"{i:06d}.mkv"

    def _times(self, i: int) -> Path:
        return self.folder / f"{i:06d}.json"


def partial_folder(target: Path) -> Path:
    return target.with_name(f"{target.name}.partial")


def require_decision(target: Path, resume: bool, overwrite: bool) -> None:
    """InputError if an unfinished run is there and neither its going on nor its end was asked for."""
    folder = partial_folder(target)
    if not folder.exists():
        return
    if not folder.is_dir() or (any(folder.iterdir()) and not (folder / JOB).exists()):
        raise InputError(f"{folder} is no unfinished run but stands where one would be kept: move it away")
    if any(folder.glob("[0-9]*.mkv")) and not (resume or overwrite):
        raise InputError(f"{folder} holds an unfinished run: go on with --resume, or start anew with --overwrite")
