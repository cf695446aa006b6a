"""The most memory that is held during each phase of a run."""

import threading
from pathlib import Path

import torch

from seedvr2_lab.restore.memory import resource

STATM = Path("/proc/self/statm")  # Linux: sizes in pages, the second one is what is in memory
INTERVAL = 0.005  # seconds between two looks


class Watch:
    """A context manager; `lap` tells the most that was held since the last one.

    On a GPU that is what its tensors held. On the CPU it is the whole process, looked at every few milliseconds, for
    the system keeps only the highest value of its life.
    """

    def __init__(self, device: str):
        self._device = torch.device(device)
        self._most = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Watch":
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
        elif self._device.type == "cpu" and STATM.exists():
            self._thread.start()
        return self

    def __exit__(self, kind, error, traceback) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def lap(self) -> int:
        """Bytes; 0 where nothing tells."""
        if self._device.type == "cuda":
            most = torch.cuda.max_memory_allocated(self._device)
            torch.cuda.reset_peak_memory_stats(self._device)
            return most
        if not self._thread.is_alive():
            return 0
        most, self._most = max(self._most, _resident()), 0
        return most

    def _look(self) -> None:
        while not self._stop.wait(INTERVAL):
            self._most = max(self._most, _resident())


def _resident() -> int:
    return int(STATM.read_text().split()[1]) * resource.getpagesize()
