"""Promises of the package as a whole: light imports, one-way arrows, a quick command line."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "seedvr2_lab"
ROOMS = ["console", "config", "model", "media", "metrics", "training", "restore", "lab", "cli"]
MAY_IMPORT = {
    "console": set(),
    "config": {"console"},
    "model": {"console", "config"},
    "media": {"console", "config"},
    "metrics": {"console", "config", "model", "media"},
    "training": {"console", "config", "model", "media", "metrics"},
    "restore": {"console", "config", "model", "media"},
    "lab": set(ROOMS) - {"cli"},
    "cli": set(ROOMS),
}
LAZY = {("config", "model")}  # names for annotations, and the classes that a table's row becomes


def room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_arrows_go_one_way(path):
    if path.parent == PACKAGE and path.name == "__init__.py":
        return
    imported = {
        node.module.split(".")[1]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("seedvr2_lab.")
    }
    allowed = MAY_IMPORT[room(path)] | {room(path)} | {to for here, to in LAZY if here == room(path)}
    assert imported <= allowed, f"{path.name} imports {imported - allowed}"


def test_every_room_is_known():
    assert {room(path) for path in PACKAGE.rglob("*.py")} - {"__init__"} == set(ROOMS)


@pytest.mark.parametrize("module", ["seedvr2_lab", "seedvr2_lab.cli", "seedvr2_lab.config", "seedvr2_lab.lab.reports"])
def test_light_modules_load_no_torch(module):
    code = f"import sys, {module}; sys.exit(bool({{'torch', 'pyiqa', 'cv2', 'matplotlib'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_nothing_loads_pyiqa_unasked():
    modules = [".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in PACKAGE.rglob("*.py")]
    code = f"import sys, importlib; [importlib.import_module(m) for m in {modules}]; sys.exit('pyiqa' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
