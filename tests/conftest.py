"""Fixtures shared by all tests: golden tensors and the number of threads."""

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

GOLDEN_FOLDERS = (Path(__file__).parent / "goldens", Path(__file__).parents[1] / "../shared/goldens")


def pytest_configure(config):
    if "PYTEST_XDIST_WORKER" in os.environ:  # one thread a worker, or the workers fight over the cores
        os.environ["OMP_NUM_THREADS"] = "1"


def golden_path(name: str) -> Path:
    """The file of that name in tests/goldens, else among the larger ones beside the repository; skips if in
    neither."""
    for folder in GOLDEN_FOLDERS:
        if (folder / name).is_file():
            return folder / name
    pytest.skip(f"golden {name} is not in the repository (too large) and not beside it")


@pytest.fixture
def golden():
    """golden(name) -> .tensors (dict) and .meta (dict, JSON values decoded) of a safetensors file, or the parsed
    JSON."""

    def load(name: str):
        path = golden_path(name)
        if path.suffix == ".json":
            return json.loads(path.read_text())
        from safetensors import safe_open

        with safe_open(path, "pt") as file:
            meta = {}
            for key, value in (file.metadata() or {}).items():
                try:
                    meta[key] = json.loads(value)
                except ValueError:
                    meta[key] = value
            return SimpleNamespace(tensors={key: file.get_tensor(key) for key in file.keys()}, meta=meta)

    return load
