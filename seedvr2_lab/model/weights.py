"""Weight files: safetensors whose header holds the configuration, so that a file is all it takes to rebuild a model.

A transformer's file also holds its text: the fixed embedding that stands where a prompt would be (`text.pos`).
"""

import dataclasses
import json
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from seedvr2_lab.console import InputError
from seedvr2_lab.model.dit import DiT, DiTConfig
from seedvr2_lab.model.vae import VAEConfig, VideoVAE
from seedvr2_lab.model.windows import WindowScheme

BUNDLED = Path(__file__).parents[1] / "weights"
TEXT = "text.pos"


class Generator(NamedTuple):
    """A transformer with the text it was trained with, (L, D), and the scale of the noise that it starts from."""

    dit: DiT
    text: Tensor
    noise_scale: float


def fixed_text(dim: int, tokens: int = 4) -> Tensor:
    """The text of the small models: (tokens, dim) unit-variance numbers that never change.

    The published models read two sentences' embeddings of a text encoder; a model that is trained from scratch can
    learn from any fixed tokens.
    """
    return torch.randn(tokens, dim, generator=torch.Generator().manual_seed(0))


def save_vae(path: Path, vae: VideoVAE, scaling_factor: float) -> None:
    config = dataclasses.replace(vae.config, scaling_factor=scaling_factor)
    _save(path, vae.state_dict(), {"kind": "vae", "config": dataclasses.asdict(config)})


def save_generator(path: Path, generator: Generator) -> None:
    tensors = generator.dit.state_dict() | {TEXT: generator.text}
    config = dataclasses.asdict(generator.dit.config)
    _save(path, tensors, {"kind": "dit", "config": config, "noise_scale": generator.noise_scale})


def load_vae(source: str | Path = "small") -> VideoVAE:
    """A VAE by its bundled name or from a file, in float32, for use (not training). Latents times
    `config.scaling_factor` have unit variance."""
    header, tensors = _load(source, "vae")
    vae = VideoVAE(VAEConfig(**_tuples(header["config"])))
    _fill(vae, tensors, source)
    return vae


def load_generator(source: str | Path = "tiny") -> Generator:
    """A transformer by its bundled name or from a file, in float32, for use (not training)."""
    header, tensors = _load(source, "dit")
    fields = _tuples(header["config"])
    dit = DiT(DiTConfig(**fields | {"windows": WindowScheme(**fields["windows"])}))
    text = tensors.pop(TEXT)
    _fill(dit, tensors, source)
    return Generator(dit, text, header["noise_scale"])


def _tuples(config: dict) -> dict:
    """JSON knows no tuples; configurations do, for they are hashable."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in config.items()}


def _save(path: Path, tensors: dict[str, Tensor], header: dict) -> None:
    halves = {name: value.detach().cpu().half().contiguous() for name, value in tensors.items()}
    new = path.with_suffix(".new")
    save_file(halves, new, metadata={name: json.dumps(value) for name, value in header.items()})
    new.replace(path)


def _load(source: str | Path, kind: str) -> tuple[dict, dict[str, Tensor]]:
    bundled = {path.stem.removeprefix(f"{kind}_"): path for path in BUNDLED.glob(f"{kind}_*.safetensors")}
    path = bundled.get(str(source), Path(source))
    if not path.is_file():
        raise InputError(f"model '{source}' is neither a file nor bundled ({', '.join(sorted(bundled))})")
    try:
        with safe_open(path, "pt") as file:
            header = {name: json.loads(value) for name, value in (file.metadata() or {}).items() if name != "format"}
            if header.get("kind") != kind:
                raise InputError(f"{path} holds no {kind} of this package: give a file made by `seedvr2-lab train`")
            return header, {name: file.get_tensor(name).float() for name in file.keys()}
    except SafetensorError as error:
        raise InputError(
            f"{path} is not a safetensors file ({error}): give a file made by `seedvr2-lab train`"
        ) from None


def _fill(module: nn.Module, tensors: dict[str, Tensor], source: str | Path) -> None:
    try:
        module.load_state_dict(tensors)
    except RuntimeError:
        raise InputError(
            f"model '{source}' does not fit the configuration in its own header: get the file again"
        ) from None
    module.eval().requires_grad_(False)
