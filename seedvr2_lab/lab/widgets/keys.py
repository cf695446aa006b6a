"""Keys for the widgets: without this the notebook would take arrows, space and letters for its own commands."""

from pathlib import Path

import anywidget


class OwnKeys(anywidget.AnyWidget):
    """Invisible; plain keys inside the box that holds it go to the widgets there and not to the notebook."""

    _esm = Path(__file__).parent / "keys.js"
