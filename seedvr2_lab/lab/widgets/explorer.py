"""The claim explorer: claims with their verdicts, and what the arms behind them gave, from finished reports."""

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING

import ipywidgets as w

from seedvr2_lab.lab.claims import CLAIMS, Claim, Judged, Report, judge_all
from seedvr2_lab.lab.figures import arm_panels, picture_row
from seedvr2_lab.lab.widgets.keys import OwnKeys
from seedvr2_lab.lab.window_study import decode_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EMPTY = "no finished report holds arms: run `seedvr2-lab report 11 --profile laptop`"
WIDTH = 864  # pixels of the figures on the page
SHARP = 2  # as many on screens with small ones


def render_arms(report: Report, arms: Sequence[str], meters: Sequence[str], frames: int) -> "Figure":
    """A row for each arm, a panel for each meter, a dot for each seed."""
    figures = report.results["metrics"]["figures"]
    values = {
        meter: {arm: [seed[str(frames)][meter] for seed in figures[arm]] for arm in arms if arm in figures}
        for meter in meters
    }
    return arm_panels({f"{meter} ({frames} frame{'s' * (frames > 1)})": found for meter, found in values.items()})


def render_crops(report: Report, arms: Sequence[str], place: int) -> "Figure":
    """One test crop as the arms of the first seed restored it, between its input and the original."""
    views = report.results["metrics"]["views"]
    shown = ["bicubic", *(arm for arm in arms if arm in views and arm not in ("bicubic", "original")), "original"]
    return picture_row({name: decode_picture(views[name][place]) for name in shown})


def describe(judged: Judged) -> str:
    """A claim and what became of it, as HTML."""
    claim, stand_in = judged.claim, " (stand-in)" if judged.claim.stands_in else ""
    numbers = "" if judged.verdict == "not run" else f": {judged.found}, expected {claim.expected}"
    lines = f"<b>{judged.verdict}{stand_in}</b> {escape(claim.measured + numbers)}<br>{escape(claim.paper)}"
    return f"<div style='line-height: 1.4'>{lines}</div>"


def picture(figure: "Figure", text: str) -> str:
    """The figure as HTML, with a text for those who cannot see it."""
    file = BytesIO()
    figure.savefig(file, dpi=SHARP * WIDTH / figure.get_figwidth())
    source = f"data:image/png;base64,{b64encode(file.getvalue()).decode()}"
    return f'<img src="{source}" alt="{escape(text)}" style="width: {WIDTH}px; max-width: 100%">'


def explorable(reports: Sequence[Report]) -> dict[str, Report]:
    """Those reports that hold figures and crops of arms, by notebook."""
    return {r.notebook: r for r in reports if {"figures", "views"} <= set(r.results["metrics"] or ())}


class ClaimExplorer(w.VBox):
    """Choose a claim, or a report, meters and arms; plot and crops follow.

    Args:
        reports: finished ones, of one profile.
        profile: of them.
    """

    def __init__(self, reports: Sequence[Report], profile: str):
        self._reports = explorable(reports)
        values = {name: found for report in reports for name, found in report.values.items()}
        self._judged = {one.claim.id: one for one in judge_all(values, profile)}
        style = {"description_width": "52px"}

        def control(kind: type[w.Widget], description: str, width: str, **options) -> w.Widget:
            return kind(description=description, style=style, layout=w.Layout(width=width), **options)

        names = [(f"{claim.id}: {self._judged[claim.id].verdict}", claim.id) for claim in CLAIMS]
        first = next((claim.id for claim in CLAIMS if self._report_of(claim)), CLAIMS[0].id)
        self.claim = control(w.Dropdown, "Claim", "300px", options=names, value=first)
        self.report = control(w.Dropdown, "Report", "300px", options=list(self._reports))
        self.frames = control(w.Dropdown, "Frames", "300px")
        self.meters = control(w.SelectMultiple, "Meters", "200px", rows=7)
        self.arms = control(w.SelectMultiple, "Arms", "200px", rows=7)
        self.crop = control(w.IntSlider, "Crop", "300px", min=0, max=0, continuous_update=False)
        self.text, self.message = w.HTML(), w.HTML()
        self.plot, self.crops = w.HTML(), w.HTML()
        row = w.Layout(flex_flow="row wrap", align_items="flex-start", grid_gap="0 16px")
        left = w.VBox([self.claim, self.report, self.frames, self.crop])
        controls = w.HBox([left, self.arms, self.meters], layout=row)
        super().__init__([OwnKeys(), controls, self.text, self.message, self.plot, self.crops])
        self.add_class("svl-explorer")
        self._settling = False  # while several controls change at once
        if self._reports:
            self._offer()
        self.claim.observe(self._claim_chosen, "value")
        self.report.observe(self._report_chosen, "value")
        for changed in (self.frames, self.meters, self.arms, self.crop):
            changed.observe(self._draw, "value")
        self._claim_chosen()

    def _report_of(self, claim: Claim) -> str | None:
        return next((name for name in self._reports if name.startswith(claim.notebook)), None)

    def _claim_chosen(self, change: object = None) -> None:
        claim = self._judged[self.claim.value].claim
        self.text.value = describe(self._judged[self.claim.value])
        if (name := self._report_of(claim)) is None:
            self._refuse(f"no arms of notebook {claim.notebook} to show" if self._reports else EMPTY)
            return
        self._settling = True
        self.report.value = name
        self._offer()
        if claim.frames in self.frames.options:
            self.frames.value = claim.frames
        self.meters.value = tuple(dict.fromkeys(m for m in (claim.meter, "psnr") if m in self.meters.options))
        self.arms.value = tuple(arm for arm in (claim.right, claim.left) if arm in self.arms.options)
        self._settling = False
        self._draw()

    def _report_chosen(self, change: object = None) -> None:
        if self._settling:
            return
        self._settling = True
        self._offer()
        self._settling = False
        self._draw()

    def _offer(self) -> None:
        """The choices that the report has."""
        metrics = self._reports[self.report.value].results["metrics"]
        measured = next(iter(metrics["figures"].values()))[0]
        self.frames.options = [int(frames) for frames in measured]
        self.frames.value = self.frames.options[0]
        self.meters.options = list(dict.fromkeys(meter for found in measured.values() for meter in found))
        self.meters.value = self.meters.options[:2]
        self.arms.options = list(metrics["figures"])
        self.arms.value = self.arms.options
        self.crop.max = len(metrics["views"]["original"]) - 1

    def _draw(self, change: object = None) -> None:
        if self._settling or not self._reports:
            return
        report, frames = self._reports[self.report.value], self.frames.value
        measured = next(iter(report.results["metrics"]["figures"].values()))[0][str(frames)]
        meters = [meter for meter in self.meters.value if meter in measured]
        if not meters or not self.arms.value:
            self._refuse("choose at least one arm and one meter that these clips have")
            return
        try:
            arms = ", ".join(self.arms.value)
            figure = render_arms(report, self.arms.value, meters, frames)
            plot = picture(figure, f"{', '.join(meters)} of {arms}: seeds, means and intervals")
            figure = render_crops(report, self.arms.value, self.crop.value)
            crops = picture(figure, f"crop {self.crop.value} as restored by {arms}")
        except Exception as error:  # a report of another make; a widget has nowhere else to say it
            self._refuse(f"{report.notebook} cannot be shown: {type(error).__name__}: {error}")
            return
        self.message.value = ""
        self.plot.value, self.crops.value = plot, crops
        self._hide_pictures(False)

    def _refuse(self, why: str) -> None:
        """Say in one line why there is nothing to see; pictures of another choice would mislead."""
        self.message.value = f"<span role='status'>{escape(' '.join(why.split()))}</span>"
        self._hide_pictures(True)

    def _hide_pictures(self, hidden: bool) -> None:
        for shown in (self.plot, self.crops):
            shown.layout.display = "none" if hidden else ""
