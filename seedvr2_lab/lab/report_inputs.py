"""What a user may ask of the report runner: which notebooks, and which values for their parameters.

A notebook's parameters stand in its cell tagged `parameters`, one plain value a line. Papermill only warns of a name it
does not find there and runs the default instead, so names and types are checked here, before anything runs.
"""

import ast
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from seedvr2_lab.console import InputError

KINDS = ("str", "int", "float", "bool", "list")
SET_BY_RUNNER = ("profile", "out_dir")


def select_notebooks(notebooks: Path, selectors: Iterable[str]) -> list[Path]:
    """The notebooks meant by numbers ("10"), names, file names or paths; all numbered ones without selectors."""
    every = sorted(notebooks.glob("[0-9]*.ipynb"))
    if not every:
        raise InputError(f"no notebooks found as {notebooks}/[0-9]*.ipynb; give the folder of the numbered notebooks")
    chosen = set()
    for selector in selectors:
        meant = {path for path in every if selector in (path.stem.split("_")[0], path.stem, path.name)}
        meant |= {path for path in every if Path(selector).resolve() == path.resolve()}
        if not meant:
            names = ", ".join(path.stem for path in every)
            raise InputError(f"notebook {selector!r} is unknown; the notebooks of {notebooks} are: {names}")
        chosen |= meant
    return sorted(chosen) or every


def read_parameters(notebook: Path) -> dict[str, tuple[str, Any]]:
    """Name -> (type, default) of the notebook's parameters; empty if no cell is tagged `parameters`.

    Read with Python's own parser: papermill's inspection overlooks a line whose comment or string holds an "=".
    """
    import nbformat

    try:
        cells = nbformat.read(notebook, as_version=4).cells
        sources = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])]
        found = {}
        for line in ast.parse(sources[0]).body if sources else []:
            target = line.target if isinstance(line, ast.AnnAssign) else line.targets[0]
            kind = ast.unparse(line.annotation).split("[")[0] if isinstance(line, ast.AnnAssign) else ""
            default = ast.literal_eval(line.value)
            found[target.id] = (kind if kind in KINDS else type(default).__name__, default)
    except Exception as error:  # not JSON, not a notebook, not Python, or more than plain assignments
        raise InputError(
            f"{notebook}: cannot be read, or its parameters cell holds more than plain values ({type(error).__name__})"
        ) from error
    return found


def check_parameters(notebook: Path, given: dict[str, Any]) -> dict[str, Any]:
    """Every parameter of the notebook with its value, given or default.

    Args:
        notebook: path of the notebook.
        given: values by name; text for a parameter that is no string is read with `parse_value`.

    Raises:
        InputError: the notebook does not know a name, or the value is of another type than the default.
    """
    known = read_parameters(notebook)
    settable = {name: kind for name, (kind, _) in known.items() if name not in SET_BY_RUNNER}
    values = {name: default for name, (_, default) in known.items()}
    for name, value in given.items():
        if name not in settable:
            names = ", ".join(f"{other} ({kind})" for other, kind in settable.items()) or "none"
            raise InputError(f"parameter {name!r} is unknown to {notebook.stem}; its parameters are: {names}")
        kind, default = known[name]
        values[name] = parse_value(value) if isinstance(value, str) and kind != "str" else value
        if not _fits(values[name], kind, default):
            raise InputError(
                f"parameter {name} of {notebook.stem} must be of type {kind}, not {value!r}; "
                f"write it like its default {default!r}"
            )
    return values


def parse_value(text: str) -> Any:
    """A value from the command line: 3, 1e-4, true, [0, 1], [a, b], or, as it is, any other text."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        if text.lower() in ("true", "false"):
            return text.lower() == "true"
        if text.startswith("[") and text.endswith("]"):
            return [parse_value(item.strip()) for item in text[1:-1].split(",") if item.strip()]
        return text
    return value if type(value).__name__ in KINDS else text


def _fits(value: Any, kind: str, default: Any) -> bool:
    if kind == "list":
        kinds = {type(item).__name__ for item in default or ()} or set(KINDS) - {"list"}
        return isinstance(value, list) and all(any(_is(item, each) for each in kinds) for item in value)
    return kind not in KINDS or _is(value, kind)  # a default of None says nothing about the type


def _is(value: Any, kind: str) -> bool:
    return type(value).__name__ in (("int", "float") if kind == "float" else (kind,))  # exact: True is no int
