"""A reader who changes one parameter of a notebook gets another result."""

import json

import pytest

from seedvr2_lab.lab.arms import CHECKOUT
from seedvr2_lab.lab.reports import run

CHANGES = {
    "00": ("seed", 1),
    "01": ("seed", 1),
    "02": ("size", 80),
    "03": ("crops", 2),
    "04": ("gamma", 0.5),
    "05": ("gamma", 0.5),
    "06": ("amount", 1.0),
    "10": ("seeds", [1]),
    "11": ("seeds", [1]),
    "12": ("arms", ["teacher", "distilled"]),
    "13": ("arms", ["full", "final"]),
    "14": ("seeds", [1]),
    "15": ("steps", [1, 8]),
    "16": ("seeds", [201]),
    "17": ("seeds", [201]),
    "20": ("degradation", "paper"),
    "21": ("model", "7b"),
    "90": ("reports", "gpu"),
}
NOTEBOOKS = sorted((CHECKOUT / "notebooks").glob("[0-9]*.ipynb"))


def found(folder, number, **parameters):
    """What a notebook found in smoke, without what differs from run to run."""
    (result,) = run([number], "smoke", parameters, notebooks=CHECKOUT / "notebooks", out=folder)
    assert result.state == "ok", result.error
    metrics = json.loads((result.folder / "results.json").read_text())["metrics"]
    return {name: value for name, value in metrics.items() if "seconds" not in name and name != "exponent_measured"}


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_changed_parameter_changes_the_result(notebook, tmp_path):
    number = notebook.name[:2]
    name, value = CHANGES[number]
    assert found(tmp_path / "changed", number, **{name: value}) != found(tmp_path / "as it is", number)
