"""Interactive parts of the notebooks: thin shells over functions that need no browser.

- `RestoreDemo`: degrade and restore a clip, compare before and after.
- `WindowInspector`: the windows of a token grid on a picture.
- `ClaimExplorer`: claims, arms and crops of finished reports.
"""

from seedvr2_lab.lab.widgets.compare import Compare
from seedvr2_lab.lab.widgets.demo import RestoreDemo
from seedvr2_lab.lab.widgets.explorer import ClaimExplorer
from seedvr2_lab.lab.widgets.inspector import WindowInspector, render_windows
from seedvr2_lab.lab.widgets.pipeline import Choices

__all__ = ["Choices", "ClaimExplorer", "Compare", "RestoreDemo", "WindowInspector", "render_windows"]
