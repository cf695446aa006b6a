"""Reading ahead and writing behind, each in a thread with a short queue: the networks do not wait for files."""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import TypeVar

Item = TypeVar("Item")
END = object()


class Ahead(Iterator[Item]):
    """Iterates over `items` in a thread that runs at most `depth` items ahead; its errors are raised here.

    Attributes:
        seconds: spent on making the items.
    """

    def __init__(self, items: Iterable[Item], depth: int):
        self._queue: queue.Queue = queue.Queue(depth)
        self._stopped = threading.Event()
        self.seconds = 0.0
        self._thread = threading.Thread(target=self._run, args=(iter(items),), daemon=True)
        self._thread.start()

    def __next__(self) -> Item:
        item, error = self._queue.get()
        if item is END:
            self._put((END, error))  # whoever asks again gets the same answer
            raise error or StopIteration
        return item

    def close(self) -> None:
        """Stop the thread, wherever it is."""
        self._stopped.set()
        self._thread.join()

    def _run(self, items: Iterator[Item]) -> None:
        error = None
        try:
            while not self._stopped.is_set():
                since = time.perf_counter()
                item = next(items, END)
                self.seconds += time.perf_counter() - since
                if item is END:
                    break
                self._put((item, None))
        except BaseException as raised:
            error = raised
        finally:
            if hasattr(items, "close"):
                items.close()
        self._put((END, error))

    def _put(self, entry: tuple) -> None:
        while not self._stopped.is_set():
            try:
                return self._queue.put(entry, timeout=0.1)
            except queue.Full:
                continue


class Behind:
    """Calls `write` with what it is given, in order, in a thread at most `depth` items behind.

    As a context manager it waits for the last item; if the block fails it drops what is waiting.

    Attributes:
        seconds: spent in `write`.
    """

    def __init__(self, write: Callable[[Item], None], depth: int):
        self._write, self._queue = write, queue.Queue(depth)
        self._failed = threading.Event()
        self._error: BaseException | None = None
        self.seconds = 0.0
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Behind":
        self._thread.start()
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if error is not None:
            self._failed.set()
        self._queue.put(END)
        self._thread.join()
        if error is None and self._error is not None:
            raise self._error

    def put(self, item: Item) -> None:
        """Wait for a place in the queue; raises what `write` raised before."""
        if self._error is not None:
            raise self._error
        self._queue.put(item)

    def _run(self) -> None:
        while (item := self._queue.get()) is not END:
            if self._failed.is_set():
                continue
            since = time.perf_counter()
            try:
                self._write(item)
            except BaseException as raised:
                self._error = raised
                self._failed.set()
            self.seconds += time.perf_counter() - since


def reading(items: Iterable[Item], depth: int) -> closing[Ahead[Item]]:
    """`Ahead` as a context manager that leaves no thread behind."""
    return closing(Ahead(items, depth))
