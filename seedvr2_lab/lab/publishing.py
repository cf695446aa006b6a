"""Finished reports for the repository: small enough to keep, and the README's table made from them.

Only complete reports of the profiles that give results are published; what they say replaces the last cell of their row
in the README's table of notebooks. A test holds the two together.
"""

import base64
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path

from seedvr2_lab.console import InputError

PROFILES = ("laptop", "gpu")  # smoke shows that the lines run, it gives no results
LIMIT = 500_000  # bytes of an executed notebook
COLOURS = 128  # of a figure: a plot has few, and a PNG with a palette is a third of the size


def publish(names: Sequence[str], reports: Path) -> list[Path]:
    """Copy finished reports to `reports/published`, their figures with fewer colours; returns the new folders.

    Args:
        names: of notebooks, such as "04_gan_losses"; empty: all that have such a report.
        reports: the folder that `seedvr2-lab report` filled.

    Raises:
        InputError: a notebook has no complete report of these profiles, or one that is too large.
    """
    import nbformat

    found = [folder for profile in PROFILES for folder in sorted(reports.glob(f"[0-9]*__{profile}"))]
    if missing := set(names) - {folder.name.split("__")[0] for folder in found}:
        raise InputError(
            f"{min(missing)} has no report to publish: run `seedvr2-lab report` with --profile laptop first"
        )
    ready = []
    for folder in found:
        if names and folder.name.split("__")[0] not in names:
            continue
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        if results["state"] != "ok":
            raise InputError(f"{folder} is the report of a run that failed: run it again")
        notebook = nbformat.read(folder / "notebook.ipynb", as_version=4)
        text = _without_home(nbformat.writes(_with_small_figures(notebook)))
        if len(text.encode()) > LIMIT:
            raise InputError(f"{folder} would be {len(text.encode())} bytes, more than {LIMIT}: show fewer figures")
        ready.append((reports / "published" / folder.name, text, json.dumps(results, indent=1, ensure_ascii=False)))
    for target, text, results in ready:
        target.mkdir(parents=True, exist_ok=True)
        (target / "notebook.ipynb").write_text(text, encoding="utf-8")
        (target / "results.json").write_text(_without_home(results) + "\n", encoding="utf-8")
    return [target for target, _, _ in ready]


def with_verdicts(readme: str, published: Path) -> str:
    """The README with the last cell of each published notebook's row as its report says it."""
    for folder in sorted(published.glob("*__*")):
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        name, link = results["notebook"], f"notebooks/reports/published/{folder.name}/notebook.ipynb"
        cell = f"{results['verdict']}: {results['headline']} ([{results['profile']} report]({link}))".replace(
            "|", "\\|"
        )
        row = re.compile(rf"^(\| \[{re.escape(name)}\]\([^)]*\) \| [^|]* \| ).*( \|)$", re.MULTILINE)
        if not row.search(readme):
            raise InputError(f"the README has no row for {name}: add one to its table of notebooks")
        readme = row.sub(lambda match, cell=cell: match[1] + cell + match[2], readme)
    return readme


def _without_home(text: str) -> str:
    """Paths such as that of a cache as they are on any machine."""
    return text.replace(f"{Path.home()}/", "~/")


def _with_small_figures(notebook):
    from PIL import Image

    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                picture = Image.open(io.BytesIO(base64.b64decode(data["image/png"]))).convert("RGB")
                small = io.BytesIO()
                picture.quantize(COLOURS, dither=Image.Dither.NONE).save(small, "PNG", optimize=True)
                data["image/png"] = base64.b64encode(small.getvalue()).decode()
    return notebook
