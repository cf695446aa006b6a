"""The restoration demo: choose a clip, degrade it, restore it in a thread beside the kernel, look, compare, save."""

import html
import shutil
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

import ipywidgets as w
import numpy as np
from PIL import Image

from seedvr2_lab.console import InputError, without_bars
from seedvr2_lab.lab.widgets import pipeline
from seedvr2_lab.lab.widgets.compare import LABELS, Compare, Upload
from seedvr2_lab.lab.widgets.keys import OwnKeys
from seedvr2_lab.lab.widgets.pipeline import AS_IT_IS, BY_HAND, Choices, Prepared, Result, Version
from seedvr2_lab.media.clips import EVALUATION
from seedvr2_lab.media.color import FIXES
from seedvr2_lab.media.degrade import PRESETS
from seedvr2_lab.model.weights import PUBLISHED
from seedvr2_lab.restore import Cancelled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILE = "a file (path or upload)"
KEPT_RESULTS = 4  # of one clip, to be compared with each other
WIDTH = "252px"  # of a control: four stand in a row
OF_CLIP = ("clip", "frames", "degradation", "blur", "noise", "jpeg", "shrink")  # the choices that make another clip


class RestoreDemo(w.VBox):
    """Restore a clip by a click.

    The controls are attributes that hold what they show: `clip`, `path`, `frames`, `degradation`, `blur`, `noise`,
    `jpeg`, `shrink`, `seed`, `model`, `scale`, `strength`, `color`; then the buttons `run_button`, `cancel_button`,
    `save_button`, the name to save under, `save_as`, and the line `status`. The picture is `compare`.

    Args:
        choices: what the controls begin with; by default those of `Choices`.
    """

    def __init__(self, choices: Choices | None = None):
        choices = choices or Choices()
        self._folder = tempfile.TemporaryDirectory(prefix="seedvr2-lab-demo-")  # removed with the demo
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._prepared: Prepared | None = None
        self._inputs: list[Version] = []
        self._results: list[tuple[Result, Version]] = []
        self._runs = 0
        self._make_controls(choices)
        self._make_outputs()
        super().__init__(self._layout())
        self._show_where_it_matters()
        self._guarded(self._prepare)

    def _make_controls(self, choices: Choices) -> None:
        style = {"description_width": "84px"}
        bundled = choices.clip in EVALUATION

        def control(kind: type[w.Widget], description: str, value: object, **options) -> w.Widget:
            return kind(description=description, value=value, style=style, layout=w.Layout(width=WIDTH), **options)

        self.clip = control(w.Dropdown, "Clip", choices.clip if bundled else FILE, options=[*EVALUATION, FILE])
        self.path = control(w.Text, "Path", "" if bundled else choices.clip, placeholder="/folder/video.mp4")
        self.path.layout.width = "520px"
        self.upload = Upload()
        self.upload.on_msg(self._receive)
        most = pipeline.MOST_FRAMES
        self.frames = control(w.BoundedIntText, "Frames", choices.frames, min=1, max=most)
        kinds = [AS_IT_IS, BY_HAND, *PRESETS]
        self.degradation = control(w.Dropdown, "Degrade", choices.degradation, options=kinds)
        self.blur = control(w.FloatSlider, "Blur, σ", choices.blur, min=0.2, max=4, step=0.1)
        noise = dict(min=0, max=0.2, step=0.005, readout_format=".3f")
        self.noise = control(w.FloatSlider, "Noise, σ", choices.noise, **noise)
        self.jpeg = control(w.IntSlider, "JPEG quality", choices.jpeg, min=5, max=100)
        self.shrink = control(w.BoundedIntText, "Shrink ×", choices.shrink, min=1, max=16)
        self.seed = control(w.BoundedIntText, "Seed", choices.seed, min=0, max=2**31 - 1)
        models = ["tiny", "distilled", "teacher", *PUBLISHED]
        self.model = control(w.Combobox, "Model", choices.model, options=models, placeholder="name or file")
        self.scale = control(w.BoundedFloatText, "Enlarge ×", choices.scale, min=1, max=16, step=0.5)
        self.strength = control(w.FloatSlider, "Strength", choices.strength, min=0, max=1, step=0.05)
        self.color = control(w.Dropdown, "Colours", choices.color, options=list(FIXES))
        for changing in (self.clip, self.degradation):
            changing.observe(lambda change: self._show_where_it_matters(), "value")

    def _make_outputs(self) -> None:
        self.run_button = w.Button(description="Run", icon="play", button_style="primary")
        self.cancel_button = w.Button(description="Cancel", icon="stop", disabled=True)
        self.progress = w.FloatProgress(min=0, max=1, description="", layout=w.Layout(width="220px"))
        self.status = w.HTML()
        self.compare = Compare()
        name = {"description_width": "initial"}
        self.save_as = w.Text(value="restored.mp4", description="Save as", style=name, layout=w.Layout(width="400px"))
        self.save_button = w.Button(description="Save video", icon="save", disabled=True)
        self.details = w.HTML().add_class("svl")
        self.code = w.HTML().add_class("svl")
        wide = w.Layout(width="240px")
        self.show_code = w.ToggleButton(description="Show code and command", icon="code", layout=wide)
        self.code.layout.display = "none"
        self.run_button.on_click(lambda button: self.start())
        self.cancel_button.on_click(lambda button: self._stop.set())
        self.save_button.on_click(lambda button: self._guarded(self._save))
        self.show_code.observe(self._toggle_code, "value")

    def _layout(self) -> list[w.Widget]:
        def row(*children: w.Widget) -> w.HBox:
            return w.HBox(children, layout=w.Layout(flex_flow="row wrap", align_items="center", grid_gap="0 16px"))

        self._file_row = row(self.path, self.upload)
        return [
            OwnKeys(),
            row(self.clip, self.frames, self.degradation, self.shrink, self.blur, self.noise, self.jpeg, self.seed),
            self._file_row,
            row(self.model, self.scale, self.strength, self.color),
            row(self.run_button, self.cancel_button, self.progress, self.status),
            self.compare,
            row(self.save_as, self.save_button, self.show_code),
            self.code,
            self.details,
        ]

    @property
    def running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    @property
    def result(self) -> Result | None:
        """The newest restoration of the clip that is shown."""
        return self._results[-1][0] if self._results else None

    def choices(self) -> Choices:
        """What the controls say; InputError if that cannot be."""
        clip = self.path.value.strip() if self.clip.value == FILE else self.clip.value
        names = ("frames", "degradation", "blur", "noise", "jpeg", "shrink", "seed", "model", "scale", "strength")
        return Choices(clip, **{name: getattr(self, name).value for name in names}, color=self.color.value)

    def start(self) -> None:
        """What the Run button does: restore in a thread, so that the kernel can still be told to cancel."""
        if self.running:
            return
        self._stop.clear()
        self._busy(True)
        self.progress.value = 0
        self._thread = threading.Thread(target=self._work, name="restore-demo", daemon=True)
        self._thread.start()

    def restore_now(self) -> None:
        """Restore and wait for the end, for reports that nobody clicks in."""
        self.start()
        self._thread.join()

    def picture(self) -> "Figure":
        """The middle frame of what the demo shows, as a figure: for reports and viewers that run no widgets."""
        from seedvr2_lab.lab.figures import picture_row

        middle = len(self.compare.places) // 2
        return picture_row({_title(version): _decode(version.frames[middle]) for version in self._versions()})

    def _work(self) -> None:
        try:
            with without_bars():
                self._guarded(self._run)
        finally:
            self._busy(False)

    def _guarded(self, action: Callable[[], None]) -> None:
        """Whatever goes wrong becomes one line in the widget, which stays usable."""
        try:
            action()
        except InputError as error:
            self._say(str(error), wrong=True)
        except Cancelled:
            self._say("cancelled: no new result")
        except Exception as error:  # a widget has nowhere else to say it
            self._say(f"{type(error).__name__}: {error}", wrong=True)

    def _advance(self, what: str, share: float) -> None:
        if self._stop.is_set():
            raise Cancelled
        self.progress.value = share
        self._say(what)

    def _prepare(self) -> None:
        choices = self.choices()
        prepared = pipeline.prepare(choices, Path(tempfile.mkdtemp(dir=self._folder.name)), self._advance)
        inputs = pipeline.render_input(prepared, self._advance)
        self._prepared, self._inputs, self._results = prepared, inputs, []
        self._show()
        self._say("ready")
        self.progress.value = 0

    def _run(self) -> None:
        choices = self.choices()
        if self._prepared is None or _clip_of(choices) != _clip_of(self._prepared.choices):
            self._prepare()
        prepared = self._prepared
        self._runs += 1
        target = Path(self._folder.name, f"restored_{self._runs}.mp4")
        result = pipeline.restored(prepared, choices, target, self._advance, self._stop.is_set)
        name = f"{self._runs}: {choices.model}, strength {choices.strength:g}, {choices.color}"
        version = pipeline.render_version(name, result.pixels_THWC, prepared, self._advance)
        light = replace(result, pixels_THWC=result.pixels_THWC[:1])  # the file holds the rest
        self.details.value = _table(pipeline.render_timing(result))
        self._results = [*self._results, (light, version)][-KEPT_RESULTS:]
        self._show()
        self._say_done(result)

    def _versions(self) -> list[Version]:
        return [*self._inputs, *(version for _, version in self._results)]

    def _show(self) -> None:
        versions = self._versions()
        self.compare.show(versions, self._prepared.places, 0, len(versions) - 1)
        self.save_button.disabled = not self._results
        self._toggle_code()

    def _say_done(self, result: Result) -> None:
        self.progress.value = 1
        frames, height, width = result.summary.frames, result.summary.height, result.summary.width
        self._say(f"done: {frames} frame{'s' * (frames > 1)} of {width}×{height}")

    def _save(self) -> None:
        target = Path(self.save_as.value.strip()).expanduser()
        if target.suffix.lower() != ".mp4":
            raise InputError(f"'{target}': end the name in .mp4")
        if not target.parent.is_dir():
            raise InputError(f"{target}: {target.parent} is not a folder; create it first")
        if target.exists():
            raise InputError(f"{target} exists: give another name")
        shutil.copyfile(self.result.target, target)
        self._say(f"saved {target.resolve()}")

    def _receive(self, widget: Upload, content: dict, buffers: list[memoryview]) -> None:
        if content.get("kind") != "file":
            return
        file = Path(tempfile.mkdtemp(dir=self._folder.name), Path(content["name"]).name)
        file.write_bytes(buffers[0])
        self.upload.message = f"received {file.name}"
        self.clip.value, self.path.value = FILE, str(file)

    def _toggle_code(self, change: object = None) -> None:
        self.code.layout.display = "" if self.show_code.value else "none"
        if self._prepared is None or not self.show_code.value:
            return
        choices = self.result.choices if self.result else self._prepared.choices
        kinds = {"Python": pipeline.python_code, "Shell": pipeline.shell_code}
        self.code.value = "".join(
            f"<b>{kind}</b><pre>{html.escape(write(self._prepared, choices, self.save_as.value))}</pre>"
            for kind, write in kinds.items()
        )

    def _busy(self, busy: bool) -> None:
        self.run_button.disabled, self.cancel_button.disabled = busy, not busy

    def _say(self, text: str, wrong: bool = False) -> None:
        line = " ".join(text.split())
        mark = "<b>✗ </b>" if wrong else ""  # colour alone would not be seen by all
        self.status.value = f"<span role='status'>{mark}{html.escape(line)}</span>"

    def _show_where_it_matters(self) -> None:
        self._file_row.layout.display = "" if self.clip.value == FILE else "none"
        for slider in (self.blur, self.noise, self.jpeg):
            slider.layout.display = "" if self.degradation.value == BY_HAND else "none"
        self.shrink.layout.display = "none" if self.degradation.value == AS_IT_IS else ""


def _clip_of(choices: Choices) -> tuple:
    by_seed = choices.clip in EVALUATION or choices.degradation != AS_IT_IS
    return (*(getattr(choices, name) for name in OF_CLIP), choices.seed if by_seed else None)


def _title(version: Version) -> str:
    found = ", ".join(
        f"{LABELS[name].removesuffix(' in dB')} {value:.3g}" for name, value in version.scores.items() if value
    )
    return f"{version.name}\n{found}"


def _decode(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(jpeg))) / 255


def _table(columns: list[tuple[str, str, str]]) -> str:
    """A row for the names, one for the times, one for the memory."""
    names, *values = zip(("Phase", "time", "memory of the process"), *columns, strict=True)
    rows = ["".join(f"<th>{html.escape(name)}</th>" for name in names)]
    rows += [f"<th>{title}</th>" + "".join(f"<td>{value}</td>" for value in row) for title, *row in values]
    return "<table>" + "".join(f"<tr>{row}</tr>" for row in rows) + "</table>"
