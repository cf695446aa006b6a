"""Published reports: complete, small, and in agreement with the README."""

import base64
import io
import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
from PIL import Image

from seedvr2_lab.cli import main
from seedvr2_lab.console import InputError
from seedvr2_lab.lab import publishing
from seedvr2_lab.lab.publishing import LIMIT, publish, with_verdicts

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "notebooks/reports/published"
ROW = "| [04_try](notebooks/04_try.ipynb) | does it? | unknown |"


def picture():
    stripes = np.zeros((60, 80, 3), np.uint8)
    stripes[::2] = np.random.default_rng(0).integers(0, 255, (80, 3))
    file = io.BytesIO()
    Image.fromarray(stripes).save(file, "PNG", compress_level=0)
    return base64.b64encode(file.getvalue()).decode()


@pytest.fixture
def reports(tmp_path):
    """A folder with a laptop report of 04_try and a smoke report of 05_other."""
    for name, profile in (("04_try", "laptop"), ("05_other", "smoke")):
        folder = tmp_path / f"{name}__{profile}"
        folder.mkdir()
        output = nbformat.v4.new_output("display_data", {"image/png": picture()})
        nbformat.write(
            nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(outputs=[output])]), folder / "notebook.ipynb"
        )
        results = {"notebook": name, "state": "ok", "profile": profile, "verdict": "held", "headline": "|a| < 1"}
        (folder / "results.json").write_text(json.dumps(results))
    return tmp_path


def test_a_report_is_published_with_smaller_figures_and_the_same_numbers(reports):
    (folder,) = publish([], reports)
    assert folder == reports / "published/04_try__laptop"
    before, after = (
        path.read_text() for path in (reports / "04_try__laptop/notebook.ipynb", folder / "notebook.ipynb")
    )
    assert len(after) < len(before) / 2
    output = nbformat.reads(after, 4).cells[0].outputs[0]
    shown = Image.open(io.BytesIO(base64.b64decode(output.data["image/png"]))).convert("RGB")
    original = Image.open(io.BytesIO(base64.b64decode(picture())))
    assert np.abs(np.asarray(shown, int) - np.asarray(original, int)).max() < 16
    assert json.loads((folder / "results.json").read_text())["headline"] == "|a| < 1"


def test_a_published_report_does_not_say_who_made_it(reports):
    source = reports / "04_try__laptop"
    notebook = nbformat.read(source / "notebook.ipynb", 4)
    notebook.cells[0].outputs.append(nbformat.v4.new_output("stream", text=f"not in {Path.home()}/.cache/x"))
    nbformat.write(notebook, source / "notebook.ipynb")
    results = json.loads((source / "results.json").read_text()) | {"metrics": {"x": f"{Path.home()}/.cache"}}
    (source / "results.json").write_text(json.dumps(results))
    (folder,) = publish([], reports)
    assert nbformat.read(folder / "notebook.ipynb", 4).cells[0].outputs[1].text == "not in ~/.cache/x"
    assert json.loads((folder / "results.json").read_text())["metrics"] == {"x": "~/.cache"}


def test_what_is_unfinished_or_too_large_is_refused_and_nothing_is_written(reports, monkeypatch):
    with pytest.raises(InputError, match="05_other has no report to publish"):
        publish(["04_try", "05_other"], reports)
    with monkeypatch.context() as patch, pytest.raises(InputError, match="more than 10"):
        patch.setattr(publishing, "LIMIT", 10)
        publish([], reports)
    path = reports / "04_try__laptop/results.json"
    path.write_text(path.read_text().replace('"ok"', '"failed"'))
    with pytest.raises(InputError, match="run that failed"):
        publish([], reports)
    assert not (reports / "published").exists()


def test_the_readmes_row_says_what_the_report_says(reports):
    publish([], reports)
    text = with_verdicts(f"before\n{ROW}\nafter\n", reports / "published")
    link = "notebooks/reports/published/04_try__laptop/notebook.ipynb"
    cells = f"| does it? | held: \\|a\\| < 1 ([laptop report]({link})) |"
    assert text == f"before\n| [04_try](notebooks/04_try.ipynb) {cells}\nafter\n"
    assert with_verdicts(text, reports / "published") == text
    with pytest.raises(InputError, match="no row for 04_try"):
        with_verdicts("nothing", reports / "published")


def test_the_command_publishes_and_rewrites_the_readme(reports, monkeypatch, capsys):
    notebooks = reports / "notebooks"
    notebooks.mkdir()
    (notebooks / "04_try.ipynb").write_text("{}")
    (reports / "README.md").write_text(ROW + "\n")
    assert main(["report", "--publish", "04", "--notebooks", str(notebooks), "--out", str(reports)]) == 0
    assert "04_try__laptop" in capsys.readouterr().out
    assert "held" in (reports / "README.md").read_text()


def test_the_readme_agrees_with_the_published_reports():
    readme = (ROOT / "README.md").read_text()
    assert with_verdicts(readme, PUBLISHED) == readme


@pytest.mark.parametrize("folder", sorted(PUBLISHED.glob("*__*")), ids=lambda folder: folder.name)
def test_published_reports_are_complete_small_and_of_notebooks_that_exist(folder):
    results = json.loads((folder / "results.json").read_text())
    assert results["state"] == "ok" and results["profile"] in publishing.PROFILES and results["commit"]
    assert (ROOT / "notebooks" / f"{results['notebook']}.ipynb").exists()
    assert (folder / "notebook.ipynb").stat().st_size <= LIMIT
    assert not re.search("/(root|home|Users)/", (folder / "notebook.ipynb").read_text())
