"""How the package talks to a person: one-line errors and one progress bar."""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

HEADLESS = "SEEDVR2_LAB_HEADLESS"  # set by the report runner: a kernel cannot tell papermill from JupyterLab


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line that names the input and the remedy. The command line prints it and ends with status 2;
    notebooks show it as an ordinary exception.
    """


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
