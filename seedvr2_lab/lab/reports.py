"""Runs the numbered notebooks headlessly and keeps one report per notebook and profile.

- `run` checks everything the user gave before anything starts, runs each notebook through papermill in a process of its
  own with this very interpreter as its kernel, and goes on when one fails.
- A report is a folder `<notebook>__<profile>` with notebook.ipynb, report.html, results.json and perhaps headline.png.
  It is built beside its place and moved there when finished, so an interruption leaves the older report whole.
- `save_results` is the last cell of every notebook: its headline, verdict and numbers, to which the runner adds how
  they came about.

Nothing heavy is imported before the first notebook is about to start: a wrong name is answered in a blink.
"""

import contextlib
import importlib.metadata
import json
import math
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seedvr2_lab.config import PROFILES
from seedvr2_lab.console import HEADLESS, InputError, writable, write_whole
from seedvr2_lab.lab.report_inputs import check_parameters, select_notebooks
from seedvr2_lab.lab.report_pages import duration, render_index, render_report, scrub

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VERDICTS = ("held", "reversed", "undecided", "not testable", "shown")  # "shown": the notebook shows and claims nothing
# Notebook -> beginnings of the names whose reports it reads.
READS = {"16": ("11",), "17": ("03", "10", "11", "12", "13", "14"), "90": ("",)}
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
VERSIONS_OF = ("seedvr2-lab", "torch", "numpy", "pyiqa", "papermill")


def report_folder(out_dir: str = "") -> Path:
    """The folder a notebook may write to, made if missing.

    An empty `out_dir` means that a person runs the notebook; it then gets a folder of its own that no index lists.
    """
    folder = Path(out_dir)
    if not out_dir:
        checkout = Path(__file__).parents[2] / "notebooks"
        session = Path(os.environ.get("JPY_SESSION_NAME", "notebook")).stem  # JupyterLab sets it to the notebook's path
        folder = (checkout if checkout.is_dir() else Path.cwd()) / "reports" / f"{session}__by_hand"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def save_results(
    out_dir: str,
    *,
    headline: str,
    verdict: str,
    metrics: dict[str, Any],
    config: dict[str, Any] | None = None,
    figure: "Figure | None" = None,
) -> None:
    """Write what a notebook found: results.json and, of the figure, headline.png.

    Args:
        out_dir: the notebook's parameter of that name; empty in a run by hand.
        headline: the one sentence for the index, with its numbers.
        verdict: one of VERDICTS.
        metrics: numbers, nested as you like; NumPy and torch values are taken, values that are not finite become null.
        config: the resolved configuration of the experiment.
        figure: the picture that the index shows small.
    """
    if verdict not in VERDICTS:
        raise InputError(f"verdict {verdict!r} is unknown; use one of: {', '.join(VERDICTS)}")
    folder = report_folder(out_dir)
    if figure is None:
        (folder / "headline.png").unlink(missing_ok=True)
    else:
        figure.savefig(folder / "headline.png", dpi=110, bbox_inches="tight")
    results = {"headline": headline, "verdict": verdict, "metrics": metrics, "config": config}
    _write_json(folder / "results.json", _plain(results))


def _plain(value: Any) -> Any:
    if hasattr(value, "tolist"):  # NumPy and torch, scalars and arrays
        value = value.tolist()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, bool | int | str) else str(value)


@dataclass(frozen=True)
class Result:
    """How one notebook ended: `state` is "ok" or "failed", `error` one line; headline and verdict are its own words."""

    notebook: str
    state: str
    wall_s: float
    folder: Path
    headline: str = ""
    verdict: str = ""
    error: str = ""


@dataclass
class _Job:
    """A notebook being run. Its report grows in `build`, below `scratch`, and ends as `folder`."""

    source: Path
    folder: Path
    parameters: dict[str, Any]
    scratch: tempfile.TemporaryDirectory
    build: Path
    process: subprocess.Popen
    started: float


_Waiting = tuple[Path, dict[str, Any]]  # notebook, its parameters


def run(
    selectors: Iterable[str] = (),
    profile: str = "smoke",
    parameters: dict[str, Any] | None = None,
    jobs: int = 1,
    notebooks: Path = Path("notebooks"),
    out: Path | None = None,
) -> list[Result]:
    """Run notebooks, write their reports and the index page, and print a line for each as it ends.

    Args:
        selectors: numbers or names of notebooks; none means all.
        profile: one of PROFILES, given to every notebook that declares the parameter `profile`.
        parameters: values by name, or their text; every selected notebook must know each of them.
        jobs: notebooks at once; the cores are shared out among them.
        notebooks: folder of the numbered notebooks, in which their kernels work.
        out: folder of the reports; `reports` below `notebooks` by default.

    Returns:
        One Result per notebook, in the order of their names.

    Raises:
        InputError: anything given is unknown, of a wrong type or not writable; nothing has been run then.
        SystemExit: status 130 after Ctrl-C; kernels are stopped, unfinished reports are as they were before.
    """
    if profile not in PROFILES:
        raise InputError(f"profile {profile!r} is unknown; use one of: {', '.join(PROFILES)}")
    if jobs < 1:
        raise InputError(f"jobs must be at least 1, not {jobs}")
    notebooks = Path(notebooks).resolve()
    out = Path(out or notebooks / "reports").resolve()
    waiting = [(path, check_parameters(path, parameters or {})) for path in select_notebooks(notebooks, selectors)]
    writable(out, "--out")

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = min(jobs, cores, len(waiting))
    facts = {"profile": profile, **_provenance(notebooks), "cores": cores, "threads": cores // jobs}
    print(f"profile: {profile}, notebooks: {len(waiting)}, at once: {jobs}, threads each: {cores // jobs}", flush=True)
    width = max(len(path.stem) for path, _ in waiting)
    results: list[Result] = []
    running: list[_Job] = []
    with _interrupted_by_sigterm(), tempfile.TemporaryDirectory() as kernels:
        environment = _environment(Path(kernels), facts["threads"])
        try:
            while waiting or running:
                while len(running) < jobs and (ready := _ready(waiting, running)):
                    waiting.remove(ready)
                    running.append(_start(*ready, profile, out, environment))
                for job in [job for job in running if job.process.poll() is not None]:
                    results.append(_finish(job, facts))
                    running.remove(job)
                    print(_progress_line(results[-1], width), flush=True)
                    write_whole(out / "index.html", render_index(out, PROFILES))
                time.sleep(0.05)
        except KeyboardInterrupt:
            names = ", ".join(sorted(result.notebook for result in results)) or "none"
            print(f"interrupted; finished: {names}; other reports in {out} are as before", flush=True)
            raise SystemExit(130) from None
        finally:
            _stop(running)
    print(f"index: {out / 'index.html'}", flush=True)
    return sorted(results, key=lambda result: result.notebook)


def _ready(waiting: list[_Waiting], running: list[_Job]) -> _Waiting | None:
    """The first whose own sources, the reports that it reads (see `READS`), are neither waiting nor being made."""
    coming = [path.stem for path, _ in waiting] + [job.source.stem for job in running]
    for notebook in waiting:
        reads, others = READS.get(notebook[0].stem[:2], ()), [name for name in coming if name != notebook[0].stem]
        if not any(name.startswith(reads) for name in others):
            return notebook
    return None


def _start(source: Path, parameters: dict[str, Any], profile: str, out: Path, environment: dict[str, str]) -> _Job:
    """Start papermill on one notebook, in a scratch folder beside the report's place."""
    import yaml

    folder = out / f"{source.stem}__{profile}"
    scratch = tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=out, ignore_cleanup_errors=True)
    build = Path(scratch.name, "report")
    build.mkdir()
    given = {"profile": profile, "out_dir": str(build)}
    parameters = {name: given.get(name, value) for name, value in parameters.items()}
    settings = Path(scratch.name, "parameters.yaml")
    settings.write_text(yaml.safe_dump(parameters), encoding="utf-8")
    command = [sys.executable, "-m", "papermill", str(source), str(build / "notebook.ipynb"), "-f", str(settings)]
    command += ["-k", "python3", "-l", "python", "--cwd", str(source.parent), "--no-progress-bar"]
    with open(Path(scratch.name, "log"), "wb") as log:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=log,
            start_new_session=True,  # Ctrl-C reaches only the runner: a stopped notebook never looks like a failed one
        )
    return _Job(source, folder, parameters, scratch, build, process, time.monotonic())


def _finish(job: _Job, facts: dict[str, Any]) -> Result:
    """Complete the report of a notebook that ended and move it into place."""
    name, wall_s = job.source.stem, time.monotonic() - job.started
    older = Path(job.scratch.name, "older")
    try:
        results = _complete(job, facts, wall_s)
        if job.folder.exists():
            job.folder.replace(older)
        job.build.replace(job.folder)
    except Exception as error:  # a page that cannot be made must not stop the other notebooks
        problem = f"report not written: {type(error).__name__}: {error}".split("\n")[0]
        return Result(name, "failed", wall_s, job.folder, error=problem)
    finally:
        if older.exists() and not job.folder.exists():  # stopped between the two moves
            older.replace(job.folder)
        job.scratch.cleanup()
    fields = {key: results[key] or "" for key in ("headline", "verdict", "error")}
    return Result(name, results["state"], results["wall_s"], job.folder, **fields)


def _complete(job: _Job, facts: dict[str, Any], wall_s: float) -> dict[str, Any]:
    """Write the scrubbed notebook, report.html and the completed results.json into the build folder."""
    import nbformat

    executed, saved = job.build / "notebook.ipynb", job.build / "results.json"
    try:
        notebook = nbformat.read(executed, as_version=4)
    except (OSError, ValueError):  # papermill died before or while writing it
        notebook = nbformat.read(job.source, as_version=4)
    failed = job.process.returncode != 0
    found = json.loads(saved.read_text(encoding="utf-8")) if saved.is_file() else {}
    results = {
        "notebook": job.source.stem,
        "state": "failed" if failed else "ok",
        "error": _reason(notebook, Path(job.scratch.name, "log")) if failed else None,
        **{key: found.get(key) for key in ("headline", "verdict", "metrics", "config")},
        "parameters": {name: value for name, value in job.parameters.items() if name != "out_dir"},
        **facts,
        "wall_s": round(notebook.metadata.get("papermill", {}).get("duration") or wall_s, 1),
    }
    place = os.path.relpath(job.folder, job.source.parent).replace(os.sep, "/")
    notebook = scrub(notebook, {str(job.build): place})
    nbformat.write(notebook, executed)
    (job.build / "report.html").write_text(render_report(notebook, results, job.source.parent), encoding="utf-8")
    _write_json(saved, results)
    return results


def _reason(notebook, log: Path) -> str:
    """One line on why a notebook failed: its last exception, else (a dead kernel) papermill's last words."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    errors = [output for output in outputs if output.output_type == "error"]
    if errors:
        return f"{errors[-1].ename}: {errors[-1].evalue}".split("\n")[0].rstrip(": ")
    words = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(words) if line.strip()), "papermill ended without a word")


def _stop(running: list[_Job]) -> None:
    for job in running:
        job.process.terminate()  # papermill takes its kernel down with it
    for job in running:
        try:
            job.process.wait(10)
        except subprocess.TimeoutExpired:
            job.process.kill()  # the kernel ends by itself when it finds its parent gone
        job.scratch.cleanup()


@contextlib.contextmanager
def _interrupted_by_sigterm() -> Iterator[None]:
    """A polite kill does what Ctrl-C does; by default it would end the runner and leave kernels behind."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _progress_line(result: Result, width: int) -> str:
    state = "FAILED" if result.state == "failed" else "ok"
    said = result.error or ": ".join(filter(None, (result.verdict, result.headline)))
    return f"{state:<6}  {result.notebook:<{width}}  {duration(result.wall_s):>8}  {said}".rstrip()


def _environment(folder: Path, threads: int) -> dict[str, str]:
    """The environment of papermill and its kernel: this interpreter as `python3`, its share of the cores, no bars."""
    spec = folder / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": argv, "display_name": "Python 3 (ipykernel)", "language": "python"}))
    # Jupyter looks there first; a `python3` that the user once installed would otherwise win over this environment.
    jupyter_path = os.pathsep.join(filter(None, (str(folder), os.environ.get("JUPYTER_PATH"))))
    limits = dict.fromkeys(THREAD_VARIABLES, str(threads))
    return {**os.environ, **limits, "JUPYTER_PATH": jupyter_path, HEADLESS: "1"}


def _provenance(notebooks: Path) -> dict[str, Any]:
    """Commit, dirty flag, device and versions, as results.json keeps them."""
    import torch  # takes seconds; wanted only now that notebooks are about to run

    def git(*arguments: str) -> str | None:
        try:
            answer = subprocess.run(["git", "-C", str(notebooks), *arguments], capture_output=True, text=True)
        except OSError:  # no git here
            return None
        return answer.stdout.strip() if answer.returncode == 0 else None

    def version(package: str) -> str | None:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    commit = git("rev-parse", "HEAD")
    device = "mps" if torch.backends.mps.is_available() else f"cpu ({platform.machine()})"
    return {
        "commit": commit,
        "dirty": bool(git("status", "--porcelain")) if commit else None,
        "device": f"cuda ({torch.cuda.get_device_name()})" if torch.cuda.is_available() else device,
        "versions": {"python": platform.python_version()} | {package: version(package) for package in VERSIONS_OF},
    }


def _write_json(path: Path, value: Any) -> None:
    write_whole(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")
