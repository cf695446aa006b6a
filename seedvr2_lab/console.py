"""How the package meets the outside: one-line errors, one progress bar, files that are whole or not there."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

HEADLESS = "SEEDVR2_LAB_HEADLESS"  # set by the report runner: a kernel cannot tell papermill from JupyterLab


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line that names the input and the remedy. The command line prints it and ends with status 2;
    notebooks show it as an ordinary exception.
    """


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Where to write what becomes `path` at the end: a reader finds the old file or the new one, never half of it."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        yield new
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def write_whole(path: Path, text: str) -> None:
    """A text file by `whole`."""
    with whole(path) as new:
        new.write_text(text, encoding="utf-8")


def make_once(path: Path, lock: Path, make: Callable[[], None]) -> None:
    """Call `make`, which leaves `path`, unless it is there; whoever asks while another process makes it waits."""
    if path.is_file():
        return
    from filelock import FileLock  # imported here: the package must import in a blink

    lock.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(lock):
        if not path.is_file():
            make()


def writable(folder: Path, option: str) -> Path:
    """The folder, made if need be. Raises InputError if it cannot be written; `option` names what to change."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror}): give another folder with {option}") from None
    return folder


def check_device(device: str) -> None:
    """InputError if PyTorch cannot compute there."""
    import torch  # imported here: the package must import in a blink

    try:
        torch.zeros((), device=device)
    except (RuntimeError, AssertionError):  # a PyTorch without CUDA asserts
        raise InputError(f"device '{device}' is not on this machine: use cpu, or cuda where there is one") from None


class TrainingFailed(RuntimeError):
    """A training that cannot go on: a loss that is not finite, or a player that has collapsed."""


_hidden: ContextVar[bool] = ContextVar("hidden", default=False)


@contextmanager
def without_bars() -> Iterator[None]:
    """No progress bars in this thread: a widget has its own, and the bar's text would land in some cell's output."""
    token = _hidden.set(True)
    try:
        yield
    finally:
        _hidden.reset(token)


def progress(items: Iterable, description: str, total: int | None = None, unit: str = "it"):
    """Iterate over `items` behind a progress bar with time left; silent when nobody watches.

    The bar is plain text, never a widget: a saved widget shows 0 % for ever in reports. The returned tqdm object takes
    `set_postfix` for running numbers.
    """
    from tqdm import tqdm  # imported here: the package must import in a blink

    watched = sys.stderr.isatty() or ("ipykernel" in sys.modules and not os.environ.get(HEADLESS))
    watched = watched and not _hidden.get()
    return tqdm(items, desc=description, total=total, unit=unit, disable=not watched, leave=False, dynamic_ncols=True)
