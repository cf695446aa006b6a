"""The claim explorer: claims with their verdicts, and what the arms behind them gave, from finished reports."""

import io
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import ipywidgets as w

from seedvr2_lab.lab.claims import CLAIMS, Judged, Report, judge_all
from seedvr2_lab.lab.figures import picture_row
from seedvr2_lab.lab.training_figures import arm_panels
from seedvr2_lab.lab.window_study import decode_picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EMPTY = "no finished report holds arms: run `seedvr2-lab report 11 --profile laptop`"
RESOLUTION = 100  # dots per inch of the figures


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
    return f"<b>{judged.verdict}{stand_in}</b> {escape(claim.measured + numbers)}<br>{escape(claim.paper)}"


def explorable(reports: Sequence[Report]) -> dict[str, Report]:
    """Those reports that hold figures and crops of arms, by notebook."""
    return {r.notebook: r for r in reports if {"figures", "views"} <= set(r.results["metrics"])}


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
        style = {"description_width": "initial"}

        def control(kind: type[w.Widget], description: str, width: str, **options) -> w.Widget:
            return kind(description=description, style=style, layout=w.Layout(width=width), **options)

        names = [(f"{claim.id}: {self._judged[claim.id].verdict}", claim.id) for claim in CLAIMS]
        self.claim = control(w.Dropdown, "Claim", "360px", options=names)
        self.report = control(w.Dropdown, "Report", "280px", options=list(self._reports))
        self.frames = control(w.Dropdown, "Frames", "130px")
        self.meters = control(w.SelectMultiple, "Meters", "240px", rows=6)
        self.arms = control(w.SelectMultiple, "Arms", "240px", rows=6)
        self.crop = control(w.IntSlider, "Crop", "240px", min=0, max=0)
        self.text, self.message = w.HTML(), w.HTML()
        self.plot, self.crops = (w.Image(format="png", layout=w.Layout(max_width="100%")) for _ in range(2))
        row = w.Layout(flex_flow="row wrap", align_items="flex-start")
        super().__init__(
            [
                w.HBox([self.claim, self.report, self.frames], layout=row),
                w.HBox([self.meters, self.arms, self.crop], layout=row),
                *(self.text, self.message, self.plot, self.crops),
            ]
        )
        self._settling = False  # while several controls change at once
        self.claim.observe(self._claim_chosen, "value")
        self.report.observe(self._report_chosen, "value")
        for changed in (self.frames, self.meters, self.arms, self.crop):
            changed.observe(self._draw, "value")
        if self._reports:
            self._report_chosen()
        self._claim_chosen()

    def _claim_chosen(self, change: object = None) -> None:
        claim = self._judged[self.claim.value].claim
        self.text.value = describe(self._judged[self.claim.value])
        of_claim = [name for name in self._reports if name.startswith(claim.notebook)]
        if not of_claim:
            self.message.value = f"no arms of notebook {claim.notebook} to show" if self._reports else escape(EMPTY)
            return
        self._settling = True
        self.report.value = of_claim[0]
        self._offer()
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
            self.message.value = "choose at least one arm and one meter that these clips have"
            return
        self.message.value = ""
        self.plot.value = _png(render_arms(report, self.arms.value, meters, frames))
        self.crops.value = _png(render_crops(report, self.arms.value, self.crop.value))


def _png(figure: "Figure") -> bytes:
    file = io.BytesIO()
    figure.savefig(file, dpi=RESOLUTION)
    return file.getvalue()
