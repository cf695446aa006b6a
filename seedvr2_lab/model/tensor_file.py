"""Files of named tensors, .safetensors or .pth, and modules filled from them.

A file is mapped into memory, a large module is built without memory of its own and takes the mapped tensors as they
are, or converted piece by piece: loading needs the memory of the weights once. Nothing in a file is ever executed.
"""

import pickle
import zipfile
from collections.abc import Callable, Container
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import safe_open
from torch import Tensor, nn

from seedvr2_lab.console import InputError

PIECE = 128 * 2**20  # bytes that are converted between two mappings of a file
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
Module = TypeVar("Module", bound=nn.Module)


def mapped(path: Path, only: Container[str] | None = None) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The header (empty for .pth) and the tensors of a file, all or `only` these; they are read when they are used.

    The kind of file is seen from its content. Raises InputError for anything that is no plain state dict.
    """
    header = {}
    try:
        if zipfile.is_zipfile(path):  # as torch.save writes it
            tensors = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        else:
            with safe_open(path, "pt") as file:
                header = file.metadata() or {}
                names = [name for name in file.keys() if only is None or _current(name) in only]
                tensors = {name: file.get_tensor(name) for name in names}
    except pickle.UnpicklingError:
        raise InputError(
            f"{path} is not loaded, for it holds more than tensors, which could run as code: give a plain state dict"
        ) from None
    except Exception:  # what a damaged file raises depends on where the damage is
        raise InputError(
            f"{path} is no safetensors file or state dict saved by torch.save, or is damaged: get the file again"
        ) from None
    if not isinstance(tensors, dict) or not all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in tensors.items()
    ):
        raise InputError(f"{path} is no plain state dict (name -> tensor): save the module's state_dict() alone")
    return header, {_current(name): value for name, value in tensors.items()}


def _current(name: str) -> str:
    """The name of today for a part of the VAE's attention named as in older versions of the published library."""
    if "attentions" not in name:
        return name
    return ".".join(OLD_ATTENTION.get(part, part) for part in name.split("."))


def empty(make: Callable[[], Module]) -> Module:
    """The module that `make` builds, without memory for its tensors and without initialising them.

    The first time costs 2 s of imports inside PyTorch: small modules are built faster as they are.
    """
    with torch.device("meta"):
        return make()


def fill(module: Module, path: Path, dtype: torch.dtype | None = None, ignore: Container[str] = ()) -> Module:
    """The module with the tensors of a file instead of its own, for use (not training).

    Args:
        module: may be `empty`.
        path: its file.
        dtype: of the parameters; None: as in the file. Parameters that need no conversion stay mapped to the file.
            Buffers become float32 with any dtype: rotary frequencies in bfloat16 would lead far positions astray.
        ignore: names that the file may hold beside the module's.

    Raises:
        InputError: names are missing or unexpected, or shapes differ.
    """
    _, found = mapped(path)
    wanted, parameters = module.state_dict(), dict(module.named_parameters())
    if misfit := _misfit(wanted, found, ignore):
        raise InputError(f"{path} does not fit {type(module).__name__}: {misfit}")
    tensors = {name: found[name] for name in wanted}
    if dtype is not None:
        dtypes = {name: dtype if name in parameters else torch.float32 for name in wanted}
        pending = [name for name in wanted if tensors[name].dtype != dtypes[name]]
        while pending:
            piece = [pending.pop()]
            while pending and sum(tensors[name].nbytes for name in piece) < PIECE:
                piece.append(pending.pop())
            _, source = mapped(path, piece)  # anew, so that what has been read and converted leaves the memory
            tensors |= {name: source[name].to(dtypes[name]) for name in piece}
            del source
    module.load_state_dict(tensors, assign=True)
    return module.eval().requires_grad_(False)


def _misfit(wanted: dict[str, Tensor], found: dict[str, Tensor], ignore: Container[str]) -> str:
    """What keeps the tensors found from being those wanted, in a few words; empty if nothing does."""
    faults = {
        "missing": [name for name in wanted if name not in found],
        "unexpected": [name for name in found if name not in wanted and name not in ignore],
        "of another shape": [
            f"{name} {list(found[name].shape)} instead of {list(value.shape)}"
            for name, value in wanted.items()
            if name in found and found[name].shape != value.shape
        ],
        "not of floating point": [
            f"{name} {found[name].dtype}" for name in wanted if name in found and not found[name].is_floating_point()
        ],
    }
    return "; ".join(
        f"{len(names)} {fault} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for fault, names in faults.items()
        if names
    )
