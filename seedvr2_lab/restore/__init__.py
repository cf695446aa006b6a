"""Low-quality video in, restored video out: `restore` for files and folders, `Restorer` for clips in memory.

A clip is cut into chunks of frames that overlap, and every chunk goes through the same stages: resize, encode, the
transformer's steps, decode, match colours. Reading and writing run beside them in threads of their own.
"""

from seedvr2_lab.restore.files import Summary, restore
from seedvr2_lab.restore.restorer import Restorer
from seedvr2_lab.restore.settings import Cancelled, Settings

__all__ = ["Cancelled", "Restorer", "Settings", "Summary", "restore"]
