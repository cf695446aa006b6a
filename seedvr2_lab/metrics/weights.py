"""The weight files of pyiqa's metrics: where they lie, whether they are what they should be, how to get them.

What is known of a file: torchvision and pyiqa put the beginning of its sha256 into its name (for LPIPS and DISTS the
rest is that of the files in their authors' own packages), CLIP puts all of it into the address. For NIQE nobody
publishes any: its contents are checked, and `fetch_weights` records the hash of what it got beside the file, so that a
later change is noticed.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from pathlib import Path

import torch

from seedvr2_lab.console import InputError, progress


@dataclass(frozen=True)
class WeightFile:
    name: str
    address: Callable[[], str]  # as the library that reads the file has it
    folder: str  # where it lies in the folder of torch.hub
    sha256: str  # the whole or its beginning; "" where nobody publishes one
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)  # of all in it, where the libraries do not look


def _torchvision(weights: str) -> Callable[[], str]:
    return lambda: getattr(import_module("torchvision.models"), weights).IMAGENET1K_V1.url


def _pyiqa(module: str, key: str) -> Callable[[], str]:
    return lambda: import_module(f"pyiqa.archs.{module}").default_model_urls[key]


ALEXNET = WeightFile("alexnet-owt-7be5be79.pth", _torchvision("AlexNet_Weights"), "checkpoints", "7be5be79")
VGG16 = WeightFile("vgg16-397923af.pth", _torchvision("VGG16_Weights"), "checkpoints", "397923af")
LPIPS = WeightFile(
    "LPIPS_v0.1_alex-df73285e.pth",
    _pyiqa("lpips_arch", "0.1_alex"),
    "pyiqa",
    "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    {f"lin{i}.model.1.weight": (1, width, 1, 1) for i, width in enumerate((64, 192, 384, 256, 256))},
)
DISTS = WeightFile(
    "DISTS_weights-f5e65c96.pth",
    _pyiqa("dists_arch", "url"),
    "pyiqa",
    "f5e65c96230b7f6ca995691647d482237e4cab8a50c5c4a5784f219ef0748218",
    {"alpha": (1, 1475, 1, 1), "beta": (1, 1475, 1, 1)},
)
NIQE = WeightFile(
    "niqe_modelparameters.mat",
    _pyiqa("niqe_arch", "niqe"),
    "pyiqa",
    "",
    {"mu_prisparam": (1, 36), "cov_prisparam": (36, 36)},
)
MUSIQ = WeightFile("musiq_koniq_ckpt-e95806b9.pth", _pyiqa("musiq_arch", "koniq10k"), "pyiqa", "e95806b9")
RN50 = WeightFile(
    "RN50.pt",
    lambda: import_module("pyiqa.archs.clip_model")._MODELS["RN50"],
    "clip",
    "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762",
)

FILES = (LPIPS, ALEXNET, DISTS, VGG16, NIQE, MUSIQ, RN50)


def fetch_weights(folder: str | Path | None = None) -> list[str]:
    """Fetch the weight files that are not there yet, about 1.2 GB in all, and check all of them.

    Args:
        folder: laid out like that of torch.hub (checkpoints/, pyiqa/, clip/), which is the default; TORCH_HOME moves
            it.

    Returns:
        A line for each file.

    Raises:
        InputError: naming the files that could not be fetched; the others are there by then.
    """
    root = weights_root(folder)
    lines, failures = [], []
    for file in progress(FILES, "weights", unit="file"):
        path, action = root / file.folder / file.name, "already there"
        if problem(file, root):
            action = "fetched"
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                torch.hub.download_url_to_file(file.address(), str(path), file.sha256, progress=False)
            except (OSError, RuntimeError) as error:
                failures.append(f"{file.name} ({error})")
                continue
            if why := problem(file, root):
                failures.append(why)
                continue
        digest = _sha256(path, path.stat().st_mtime_ns)
        if not file.sha256:
            _record(path).write_text(digest)
        lines.append(f"{path}: {action}, sha256 {digest}")
    if failures:
        raise InputError(f"weights could not be fetched, put them into {root} by hand: {'; '.join(failures)}")
    return lines


def weights_root(folder: str | Path | None) -> Path:
    return Path(folder or torch.hub.get_dir())


def problem(file: WeightFile, root: Path) -> str:
    """Why the file cannot be used; empty if it can. Nothing in it is run, and nothing is fetched."""
    path = root / file.folder / file.name
    if not path.is_file():
        return f"{file.name} is not in {path.parent}; `seedvr2-lab weights metrics` fetches it"
    expected = file.sha256 or (_record(path).read_text() if _record(path).is_file() else "")
    digest = _sha256(path, path.stat().st_mtime_ns)
    if not digest.startswith(expected):
        return f"{path} is damaged or another file: its sha256 is {digest[:8]}..., not {expected[:8]}..."
    if file.shapes:
        try:
            shapes = {name: tuple(value.shape) for name, value in _contents(path).items()}
        except Exception as error:  # the readers raise a dozen kinds, and whatever it is, the file is unusable
            return f"{path} cannot be read ({type(error).__name__}): get it again"
        if shapes != file.shapes:
            return f"{path} holds {shapes or 'nothing'} instead of {file.shapes}: get it again"
    return ""


def _contents(path: Path) -> dict:
    if path.suffix == ".mat":
        from scipy.io import loadmat

        return {name: value for name, value in loadmat(path).items() if not name.startswith("__")}
    return torch.load(path, map_location="cpu", weights_only=True)


@lru_cache
def _sha256(path: Path, changed: int) -> str:
    """`changed`, the time in nanoseconds, is there for the cache."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
