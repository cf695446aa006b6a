"""Before and after: two versions of a clip behind one divider that can be dragged."""

from pathlib import Path

import anywidget
import traitlets

from seedvr2_lab.lab.widgets.pipeline import Version

HERE = Path(__file__).parent
VIEWS = ("divider", "difference")
LABELS = {"psnr": "PSNR in dB", "ssim": "SSIM", "texture": "texture distance"}


class Compare(anywidget.AnyWidget):
    """Two of several versions of a clip in one picture; everything happens in the browser, no kernel is asked.

    Keys while the picture has the focus: left and right move the divider, comma and full stop the frame, space plays,
    plus and minus zoom, shift with an arrow moves the part that is seen, d shows the difference.

    Traits:
        versions: dicts of the fields of `Version`, all of the same frames.
        places: the number of every shown frame in the clip.
        left, right: indices into `versions`.
        frame: index into `places`.
        divider: share of the width that shows the left version.
        zoom, center: magnification, and the middle of what is seen as shares of width and height.
        view: one of `VIEWS`.
    """

    _esm = HERE / "compare.js"
    _css = HERE / "widgets.css"
    versions = traitlets.List([]).tag(sync=True)
    places = traitlets.List([]).tag(sync=True)
    labels = traitlets.Dict(LABELS).tag(sync=True)
    left = traitlets.Int(0, min=0).tag(sync=True)
    right = traitlets.Int(0, min=0).tag(sync=True)
    frame = traitlets.Int(0, min=0).tag(sync=True)
    divider = traitlets.Float(0.5, min=0, max=1).tag(sync=True)
    zoom = traitlets.Int(1, min=1, max=8).tag(sync=True)
    center = traitlets.List([0.5, 0.5]).tag(sync=True)
    view = traitlets.Enum(VIEWS, VIEWS[0]).tag(sync=True)

    def show(self, versions: list[Version], places: list[int], left: int, right: int) -> None:
        """Show these versions; what was chosen by the user stays where it still can be."""
        state = [vars(version) for version in versions]
        with self.hold_sync():
            self.versions, self.places = state, places
            self.left, self.right, self.frame = left, right, min(self.frame, len(places) - 1)


class Upload(anywidget.AnyWidget):
    """A file chooser that looks at the size before it sends: the server drops messages that are too large.

    Traits:
        limit: bytes.
        message: one line below the button.
    """

    _esm = HERE / "upload.js"
    _css = HERE / "widgets.css"
    limit = traitlets.Int(8_000_000).tag(sync=True)
    message = traitlets.Unicode("").tag(sync=True)
