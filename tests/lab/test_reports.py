"""The report runner, on tiny notebooks: what it refuses, what a report holds, and what an interruption leaves."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from seedvr2_lab.console import InputError
from seedvr2_lab.lab.report_inputs import check_parameters, parse_value, read_parameters
from seedvr2_lab.lab.report_pages import SMOKE_STAMP, WIDGET_VIEW, duration, scrub
from seedvr2_lab.lab.reports import _ready, report_folder, run, save_results

PARAMETERS = """
profile: str = "smoke"  # size of the run
seeds: list = [0]  # one run for each
rate: float = 1e-4  # step size
name: str = "a"  # any text
deep: bool = False  # longer
steps: int = 3  # how many
out_dir: str = ""  # empty = a folder of its own
"""
SHOW = """
import os, sys, warnings
import matplotlib.pyplot as plt
import numpy as np
from seedvr2_lab.lab.reports import save_results
print("python", sys.executable)
print("folder", os.getcwd())
print("given", profile, seeds, repr(rate), name, out_dir)
warnings.warn("a warning names the kernel's file")
figure, axis = plt.subplots(figsize=(4, 2))
axis.plot(seeds, seeds, "o")
plt.show()
"""
THREADS = """
import os
print("threads", os.environ["OMP_NUM_THREADS"], "headless", os.environ["SEEDVR2_LAB_HEADLESS"])
"""
SAVE = """
save_results(out_dir, headline="2 < 3 seams", verdict="held", figure=figure,
             metrics={"seams": np.float32(0.5), "none": float("nan"), "each": {3: np.arange(2)}}, config={"width": 8})
"""


def write_notebook(folder: Path, name: str, *cells: str, parameters: str = PARAMETERS) -> Path:
    """A notebook with a heading, a parameters cell and code cells."""
    tagged = new_code_cell(parameters.strip(), metadata={"tags": ["parameters"]})
    kernel = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    cells = [new_markdown_cell(f"# {name}\nσ = 0.1, $x^2$"), tagged, *(new_code_cell(cell.strip()) for cell in cells)]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.ipynb"
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


def text_of(notebook: Path) -> str:
    cells = nbformat.read(notebook, as_version=4).cells
    return "".join(output.get("text", "") for cell in cells for output in cell.get("outputs", []))


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """Three notebooks run two at once, one of them again, in a git repository and beside a user's broken `python3`."""
    root = tmp_path_factory.mktemp("house")
    notebooks = root / "notebooks"
    write_notebook(notebooks, "00_show", SHOW, SAVE)
    write_notebook(notebooks, "10_fails", THREADS, "raise ValueError('seams: 3 > 2\\nmore')", "print('never')")
    write_notebook(notebooks, "11_dies", "import os\nos._exit(3)", parameters="seeds: list = [0]\nrate = 0.5\nname='a'")
    write_notebook(notebooks, "draft", "raise RuntimeError")
    environment = {**os.environ, "HOME": str(root), "JUPYTER_PATH": str(root / "other")}
    environment |= dict.fromkeys(("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME"), "a")
    environment |= dict.fromkeys(("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL"), "a@b")
    for data in (root / ".local/share/jupyter", root / "other"):
        spec = data / "kernels/python3/kernel.json"
        spec.parent.mkdir(parents=True)
        spec.write_text(json.dumps({"argv": ["false"], "display_name": "mine", "language": "python"}))
    for command in ("init -q", "add notebooks", "commit -qm one"):
        subprocess.run(["git", *command.split()], cwd=root, env=environment, check=True)
    code = (
        "from pathlib import Path; from seedvr2_lab.lab.reports import run\n"
        "given = {'seeds': '[0, 1]', 'rate': '1e-05', 'name': '10'}\n"
        "print([r.state for r in run(parameters=given, jobs=2, notebooks=Path('notebooks'))])\n"
        "folder = Path('notebooks/reports/00_show__smoke')\n"
        "(folder / 'notebook.ipynb').rename('first.ipynb')\n"
        "run(['00_show.ipynb'], parameters=given)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return root, done


def test_goes_on_after_failures_and_says_so(reports):
    root, done = reports
    lines = done.stdout.splitlines()
    assert "['ok', 'failed', 'failed']" in lines
    assert re.search(r"^ok +00_show +\d+ s  held: 2 < 3 seams$", done.stdout, re.M)
    assert re.search(r"^FAILED +10_fails +\d+ s  ValueError: seams: 3 > 2$", done.stdout, re.M)
    assert re.search(r"^FAILED +11_dies +\d+ s  .*DeadKernelError", done.stdout, re.M)
    assert f"index: {root / 'notebooks/reports/index.html'}" in lines
    assert done.stderr == ""
    folders = sorted(path.name for path in (root / "notebooks/reports").iterdir())
    assert folders == ["00_show__smoke", "10_fails__smoke", "11_dies__smoke", "index.html"]  # no scratch left behind


def test_kernel_is_this_interpreter_in_the_notebooks_folder(reports):
    root, _ = reports
    said = text_of(root / "notebooks/reports/00_show__smoke/notebook.ipynb")
    assert f"python {sys.executable}\n" in said
    assert f"folder {root / 'notebooks'}\n" in said
    assert "given smoke [0, 1] 1e-05 10 reports/00_show__smoke\n" in said


def test_jobs_share_the_cores(reports):
    root, _ = reports
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    said = text_of(root / "notebooks/reports/10_fails__smoke/notebook.ipynb")
    assert said == f"threads {cores // min(2, cores)} headless 1\n"


def test_results_hold_what_was_found_and_how(reports):
    root, _ = reports
    folder = root / "notebooks/reports/00_show__smoke"
    results = json.loads((folder / "results.json").read_text())
    assert results["metrics"] == {"seams": 0.5, "none": None, "each": {"3": [0, 1]}}
    assert results["config"] == {"width": 8}
    assert (results["headline"], results["verdict"], results["state"]) == ("2 < 3 seams", "held", "ok")
    expected = {"profile": "smoke", "seeds": [0, 1], "rate": 1e-5, "name": "10", "deep": False, "steps": 3}
    assert results["parameters"] == expected
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True).stdout.strip()
    assert results["commit"] == head and results["dirty"] is True  # the kernel of the fixture is not committed
    assert results["versions"]["torch"] and results["device"] and 0 < results["wall_s"] < 300
    assert (folder / "headline.png").read_bytes().startswith(b"\x89PNG")


def test_failed_notebook_keeps_its_traceback(reports):
    root, _ = reports
    folder = root / "notebooks/reports/10_fails__smoke"
    cells = nbformat.read(folder / "notebook.ipynb", as_version=4).cells
    assert [output.ename for cell in cells for output in cell.get("outputs", []) if output.output_type == "error"]
    results = json.loads((folder / "results.json").read_text())
    assert (results["state"], results["error"], results["headline"]) == ("failed", "ValueError: seams: 3 > 2", None)
    page = (folder / "report.html").read_text()
    assert "FAILED: ValueError: seams: 3 &gt; 2" in page and "never" in page
    dead = json.loads((root / "notebooks/reports/11_dies__smoke/results.json").read_text())
    assert dead["state"] == "failed" and dead["parameters"]["name"] == "10"


def test_pages_need_no_network_and_show_figures(reports):
    root, _ = reports
    out = root / "notebooks/reports"
    page = (out / "00_show__smoke/report.html").read_text()
    assert page.count('src="data:image/png;base64,') == 1
    assert SMOKE_STAMP in page and "commit " in page
    index = (out / "index.html").read_text()
    assert "2 &lt; 3 seams" in index and index.count("<tr>") == 4
    for text in (page, index):
        for tag in re.findall(r"<(?:script|link|img|iframe|source)\b[^>]*>", text):
            assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//""", tag), tag
        assert not re.search(r"@import|url\(\s*[\"']?(?:https?:)?//|\bimport\s*\(?[\"'`]http", text)
    for target in re.findall(r'(?:src|href)="([^"]+)"', index):
        assert (out / target).is_file(), target


def test_reruns_are_equal(reports):
    root, _ = reports
    first = (root / "first.ipynb").read_bytes()
    assert first == (root / "notebooks/reports/00_show__smoke/notebook.ipynb").read_bytes()
    assert set(json.loads(first)["metadata"]) == {"kernelspec"}


def test_interruption_stops_kernels_and_leaves_older_reports(tmp_path):
    write_notebook(tmp_path, "00_quick", "print(1)")
    slow = "import os, pathlib, time\npathlib.Path('pid').write_text(str(os.getpid()))\ntime.sleep(600)"
    write_notebook(tmp_path, "01_slow", slow)
    older = tmp_path / "reports/01_slow__smoke/results.json"
    older.parent.mkdir(parents=True)
    older.write_text('{"older": true}')
    # A shell's background jobs ignore SIGINT, and so would a runner that such a job starts.
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from pathlib import Path; "
        f"from seedvr2_lab.lab.reports import run; run(notebooks=Path({str(tmp_path)!r}))"
    )
    runner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    pid = tmp_path / "pid"
    until = time.monotonic() + 120
    while not (pid.exists() and pid.read_text()):
        assert runner.poll() is None and time.monotonic() < until, runner.communicate()
        time.sleep(0.1)
    runner.send_signal(signal.SIGINT)
    said, complaints = runner.communicate(timeout=60)
    assert runner.returncode == 130 and complaints == ""
    assert "interrupted; finished: 00_quick" in said.splitlines()[-1]
    assert older.read_text() == '{"older": true}'
    left = sorted(path.name for path in (tmp_path / "reports").iterdir())
    assert left == ["00_quick__smoke", "01_slow__smoke", "index.html"]
    assert "results.json is damaged" in (tmp_path / "reports/index.html").read_text()
    for _ in range(100):
        try:
            os.kill(int(pid.read_text()), 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    pytest.fail("the kernel still runs")


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ({"selectors": ["12"]}, r"notebook '12' is unknown.*00_a, 01_b"),
        ({"profile": "big"}, "profile 'big' is unknown; use one of: smoke, laptop, gpu"),
        ({"parameters": {"sedes": [1]}}, r"'sedes' is unknown to 00_a; .*seeds \(list\)"),
        ({"parameters": {"steps": 4}}, r"'steps' is unknown to 01_b; .*seeds \(list\)"),
        ({"parameters": {"seeds": "3"}}, r"seeds of 00_a must be of type list, not '3'; .* its default \[0\]"),
        ({"parameters": {"profile": "gpu"}}, "'profile' is unknown"),
        ({"jobs": 0}, "jobs must be at least 1"),
        ({"out": Path("blocked/reports")}, "blocked/reports cannot be written .*: give another folder with --out"),
        ({"notebooks": Path("empty")}, r"no notebooks found as .*empty/\[0-9\]\*.ipynb"),
    ],
)
def test_refuses_before_anything_is_written(tmp_path, monkeypatch, given, remedy):
    monkeypatch.chdir(tmp_path)
    notebooks = tmp_path / "notebooks"
    write_notebook(notebooks, "00_a", "print(1)")
    write_notebook(notebooks, "01_b", "print(1)", parameters="seeds: list = [0]")
    (tmp_path / "blocked").write_text("a file")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=remedy) as caught:
        run(**given)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-1e-4", -1e-4),
        ("true", True),
        ("False", False),
        ("[0, 1]", [0, 1]),
        ("[a, b_c]", ["a", "b_c"]),
        ("[]", []),
        ('"3"', "3"),
        ("plain text", "plain text"),
        ("(1, 2)", "(1, 2)"),
        ("007", "007"),
    ],
)
def test_parse_value(text, value):
    assert parse_value(text) == value and type(parse_value(text)) is type(value)


@pytest.mark.parametrize(
    ("name", "value", "fits"),
    [
        ("rate", 1, True),
        ("rate", True, False),
        ("rate", "fast", False),
        ("steps", 2.0, False),
        ("steps", "2", True),
        ("steps", True, False),
        ("deep", "true", True),
        ("deep", 1, False),
        ("name", "10", True),
        ("name", 10, False),
        ("seeds", [], True),
        ("seeds", ["a"], False),
        ("seeds", [[1]], False),
    ],
)
def test_types_of_parameters(tmp_path, name, value, fits):
    notebook = write_notebook(tmp_path, "00_a")
    if fits:
        checked = check_parameters(notebook, {name: value})[name]
        assert checked == (parse_value(value) if isinstance(value, str) and name != "name" else value)
    else:
        with pytest.raises(InputError, match=f"parameter {name} of 00_a must be of type"):
            check_parameters(notebook, {name: value})


def test_parameters_cell_is_read_whole(tmp_path):
    source = 'arms: list[str] = [\n    "a=b",  # x = y\n    "c",\n]  # a "#"\nrate: float = 1  # = one\ntitle = "#1"'
    notebook = write_notebook(tmp_path, "00_a", parameters=source)
    known = {"arms": ("list", ["a=b", "c"]), "rate": ("float", 1), "title": ("str", "#1")}
    assert read_parameters(notebook) == known
    derived = write_notebook(tmp_path, "01_b", parameters="seed = 1\ntwice = 2 * seed")
    with pytest.raises(InputError, match=r"01_b.ipynb.*more than plain values"):
        read_parameters(derived)


def test_save_results(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="use one of: held, reversed"):
        save_results(str(tmp_path), headline="", verdict="true", metrics={})
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv("JPY_SESSION_NAME", "/home/a/notebooks/10_x.ipynb")
    monkeypatch.setattr("seedvr2_lab.lab.reports.__file__", str(tmp_path / "package/lab/reports.py"))
    (tmp_path / "notebooks").mkdir()
    assert report_folder() == tmp_path / "notebooks/reports/10_x__by_hand"


def test_scrub_replaces_widgets():
    view = {"output_type": "display_data", "metadata": {}, "data": {WIDGET_VIEW: {"model_id": "1"}, "text/plain": "x"}}
    notebook = new_notebook(cells=[new_code_cell("x", outputs=[nbformat.from_dict(view)])], metadata={"widgets": {}})
    clean = scrub(notebook, {})
    assert "widgets" not in clean.metadata and list(clean.cells[0].outputs[0].data) == ["text/plain"]
    assert "model_id" in nbformat.writes(notebook)  # the given notebook is left alone


def test_duration():
    texts = [duration(seconds) for seconds in (0.4, 59.6, 200, 7500)]
    assert texts == ["0 s", "1 min 00 s", "3 min 20 s", "2 h 05 min"]


def test_importing_the_runner_is_quick():
    code = "import seedvr2_lab.lab.reports, sys; print({'torch', 'papermill', 'nbconvert'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


def test_a_notebook_that_reads_reports_waits_for_them():
    def left(*names):
        return [(Path(f"{name}.ipynb"), {}) for name in names]

    def job(name):
        return SimpleNamespace(source=Path(f"{name}.ipynb"))

    waiting = left("11_losses", "16_second_look", "20_demo", "90_report")
    assert _ready(waiting, [])[0].stem == "11_losses"
    assert _ready(waiting[1:], [job("11_losses")])[0].stem == "20_demo"
    assert _ready(left("17_seeds"), [job("03_steps")]) is None
    assert _ready(left("90_report"), [job("20_demo")]) is None
    assert _ready(left("90_report"), [])[0].stem == "90_report"
