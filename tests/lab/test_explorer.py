"""The claim explorer without a browser: every control through its trait, on reports made here."""

import base64
import io
import json
from html import escape

import numpy as np
import pytest
from PIL import Image

from seedvr2_lab.lab.claims import CLAIMS, finished_reports, of_notebook
from seedvr2_lab.lab.recipe_study import difference
from seedvr2_lab.lab.widgets import ClaimExplorer
from seedvr2_lab.lab.widgets.explorer import EMPTY, explorable, render_arms, render_crops

METERS = ("psnr", "texture")
ARMS = ("bicubic", "apt", "rpgan", "+l1", "+fm", "full")


def jpeg(level):
    file = io.BytesIO()
    Image.fromarray(np.full((24, 24, 3), level, np.uint8)).save(file, "JPEG")
    return base64.b64encode(file.getvalue()).decode()


def picture_of(widget):
    return Image.open(io.BytesIO(base64.b64decode(widget.value.partition("base64,")[2].partition('"')[0])))


def results(notebook, seeds=5, state="ok"):
    random = np.random.default_rng(0)
    figures = {
        arm: [
            {"1": {m: place + random.normal() / 9 for m in METERS}, "5": dict.fromkeys((*METERS, "flicker"), 0.5)}
            for _ in range(seeds)
        ]
        for place, arm in enumerate(ARMS)
    }
    runs = {arm: [{"figures": seed} for seed in figures[arm]] for arm in ARMS}
    values = {claim.id: difference(runs, claim.left, claim.right, claim.meter) for claim in of_notebook("11", ARMS)}
    views = {name: [jpeg(40 * k + place) for k in range(2)] for place, name in enumerate((*ARMS, "original"))}
    metrics = {"claims": values, "figures": figures, "views": views}
    return {"notebook": notebook, "state": state, "metrics": metrics, "wall_s": 60.0, "commit": "0" * 40}


@pytest.fixture
def folder(tmp_path):
    def keep(place, content):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "results.json").write_text(json.dumps(content))

    keep("published/11_ablate_losses__laptop", results("11_ablate_losses", seeds=3))
    keep("11_ablate_losses__laptop", results("11_ablate_losses"))  # one's own counts
    keep("13_ablate_fidelity__laptop", results("13_ablate_fidelity", state="failed"))
    keep("12_ablate_distillation__smoke", results("12_ablate_distillation"))
    keep("02_video_vae__laptop", {"notebook": "02_video_vae", "state": "ok", "metrics": None})
    return tmp_path


@pytest.fixture
def explorer(folder):
    return ClaimExplorer(finished_reports(folder, "laptop"), "laptop")


def test_only_finished_reports_of_the_profile_are_read(folder):
    found = finished_reports(folder, "laptop")
    assert [report.notebook for report in found] == ["02_video_vae", "11_ablate_losses"]
    assert found[1].folder.parent == folder and len(found[1].values["l1, psnr"]) == 5
    assert list(explorable(found)) == ["11_ablate_losses"]


def test_a_claim_brings_its_arms_and_meters(explorer):
    explorer.claim.value = "l1, psnr"
    assert explorer.report.value == "11_ablate_losses" and set(explorer.arms.value) == {"rpgan", "+l1"}
    assert "psnr" in explorer.meters.value and explorer.frames.value == 1
    assert "<b>held</b>" in explorer.text.value and "+l1 − rpgan" in explorer.text.value
    before = explorer.plot.value
    explorer.claim.value = "fm, texture"
    assert explorer.plot.value != before and "reversed (stand-in)" in explorer.text.value
    explorer.claim.value = "seams"
    assert "not run" in explorer.text.value and "no arms of notebook 10" in explorer.message.value
    assert explorer.plot.layout.display == explorer.crops.layout.display == "none"  # those of another claim mislead
    explorer.arms.value = ("apt", "full")
    assert not explorer.message.value and explorer.plot.layout.display == explorer.crops.layout.display == ""
    assert [name for _, name in explorer.claim.options] == [claim.id for claim in CLAIMS]


def test_it_begins_with_a_claim_that_can_be_shown(explorer):
    assert explorer.claim.value == of_notebook("11", ARMS)[0].id and not explorer.message.value
    assert picture_of(explorer.plot).width > 400


def test_a_report_of_another_make_is_one_line(folder):
    reports = finished_reports(folder, "laptop")
    del reports[1].results["metrics"]["figures"]["full"][0]["1"]["psnr"]
    explorer = ClaimExplorer(reports, "laptop")
    explorer.arms.value, explorer.meters.value = ("full",), ("psnr",)
    assert "11_ablate_losses cannot be shown: KeyError" in explorer.message.value
    explorer.arms.value = ("apt",)
    assert not explorer.message.value


def test_every_control_changes_the_pictures(explorer):
    for control, value in (
        (explorer.arms, ("apt", "full")),
        (explorer.meters, ("texture",)),
        (explorer.frames, 5),
    ):
        before = explorer.plot.value
        control.value = value
        assert explorer.plot.value != before and picture_of(explorer.plot).width > 400
    before = explorer.crops.value
    explorer.crop.value = 1
    assert explorer.crops.value != before
    assert 'alt="texture of apt, full' in explorer.plot.value and 'alt="crop 1' in explorer.crops.value


def test_empty_choices_are_said_and_mended(explorer):
    before = explorer.plot.value
    explorer.arms.value = ()
    assert "at least one arm" in explorer.message.value and explorer.plot.value == before
    explorer.arms.value = ("apt",)
    assert not explorer.message.value
    explorer.meters.value = ("flicker",)  # single frames have none
    assert "at least one arm and one meter" in explorer.message.value
    explorer.frames.value = 5
    assert not explorer.message.value


def test_without_reports_it_says_what_to_run():
    explorer = ClaimExplorer([], "laptop")
    assert escape(EMPTY) in explorer.message.value
    explorer.claim.value = "l1, psnr"
    explorer.arms.value = ()
    assert explorer.plot.value == ""


def test_figures_show_what_they_are_given(folder):
    report = explorable(finished_reports(folder, "laptop"))["11_ablate_losses"]
    figure = render_arms(report, ("apt", "full"), ("psnr", "texture"), 1)
    assert [axes.get_xlabel() for axes in figure.axes] == ["psnr (1 frame)", "texture (1 frame)"]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["apt", "full"]
    titles = [axes.get_title(loc="left") for axes in render_crops(report, ("bicubic", "apt"), 1).axes]
    assert titles == ["bicubic", "apt", "original"]
