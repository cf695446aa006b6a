"""Models from their weight files, our own and the published ones.

Our own are safetensors files whose header holds the configuration, so that a file is all it takes to rebuild a model.
A transformer's file also holds its texts: the fixed embeddings that stand where prompts would be (`text.pos`, and
`text.neg` where the model is used with guidance).
The published ones are plain state dicts, .pth or .safetensors, recognised by their names and shapes.
"""

import dataclasses
import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from seedvr2_lab.config import transformer_config, vae_config
from seedvr2_lab.console import InputError, whole
from seedvr2_lab.model import published
from seedvr2_lab.model.diffusion import build_condition, conditioned, sample
from seedvr2_lab.model.dit import DiT, DiTConfig
from seedvr2_lab.model.tensor_file import empty, fill, mapped
from seedvr2_lab.model.vae import VAEConfig, VideoVAE
from seedvr2_lab.model.windows import WindowScheme

BUNDLED = Path(__file__).parents[1] / "weights"
TEXT, NEGATIVE_TEXT = "text.pos", "text.neg"
PUBLISHED = ("3b", "7b")
HEADER = ("noise_scale", "vae", "steps", "guidance")  # fields of `Generator` that the header of a file holds

# None: float32 for our own models, bfloat16 for the published ones, as their pipeline runs them. "file": as stored.
Dtype = torch.dtype | Literal["file"] | None


class Generator(NamedTuple):
    """A transformer with all that its use needs besides."""

    dit: DiT
    text: Tensor  # (L, D), the one it was trained with
    noise_scale: float  # of the noise that it starts from
    vae: str = "small"  # whose latents it knows, by name or file
    steps: int = 1  # that it is meant to be used with
    guidance: float = 1.0  # likewise; 1 is none
    negative_text: Tensor | None = None  # what guidance moves away from

    def restore(self, low: Tensor, noise: Tensor, steps: int | None = None, guidance: float | None = None) -> Tensor:
        """High-quality latents from low-quality ones and standard normal noise, all of one shape, by Euler's method.

        Args:
            steps, guidance: the model's own if None.
        """
        guidance = self.guidance if guidance is None else guidance
        velocity = conditioned(self.dit, build_condition(low), self.text, self.negative_text, guidance)
        return sample(velocity, noise * self.noise_scale, steps or self.steps)


def fixed_text(dim: int, tokens: int = 4, negative: bool = False) -> Tensor:
    """The text of the small models, or its negative: (tokens, dim) unit-variance numbers that never change.

    The published models read two sentences' embeddings of a text encoder; a model that is trained from scratch can
    learn from any fixed tokens.
    """
    return torch.randn(tokens, dim, generator=torch.Generator().manual_seed(int(negative)))


def published_text(negative: bool = False) -> Tensor:
    """The fixed text of the published models, (58, 5120); the negative one, (64, 5120), serves guidance. bfloat16."""
    return torch.load(published.text_file("neg_emb.pt" if negative else "pos_emb.pt"), weights_only=True)


def save_vae(path: Path, vae: VideoVAE, scaling_factor: float) -> None:
    config = dataclasses.replace(vae.config, scaling_factor=scaling_factor)
    _save(path, vae.state_dict(), {"kind": "vae", "config": dataclasses.asdict(config)})


def save_generator(path: Path, generator: Generator) -> None:
    tensors = generator.dit.state_dict() | {TEXT: generator.text}
    if generator.negative_text is not None:
        tensors[NEGATIVE_TEXT] = generator.negative_text
    config = dataclasses.asdict(generator.dit.config)
    header = {"kind": "dit", "config": config} | {name: getattr(generator, name) for name in HEADER}
    _save(path, tensors, header)


def load_vae(source: str | Path = "small", dtype: Dtype = None) -> VideoVAE:
    """A VAE by its bundled name, "published", or from a file, for use (not training). Latents times
    `config.scaling_factor` have unit variance. Raises InputError if there is no such VAE."""
    path = published.weight_file("vae") if source == "published" else _path(source, "vae", ["published"])
    metadata, tensors = mapped(path)
    if header := _header(path, metadata, "vae"):
        return fill(VideoVAE(header["config"]), path, _dtype(dtype, torch.float32))
    vae = empty(lambda: VideoVAE(vae_config("published")))
    # The published pipeline, too, passes over what else such a file holds.
    return fill(vae, path, _dtype(dtype, torch.bfloat16), ignore=tensors)


def load_generator(source: str | Path = "tiny", dtype: Dtype = None) -> Generator:
    """A transformer by its bundled name, "3b", "7b", or from a file, for use (not training). Raises InputError if there
    is no such transformer, or no text for it."""
    path = published.weight_file(source) if source in PUBLISHED else _path(source, "dit", PUBLISHED)
    metadata, tensors = mapped(path)
    if header := _header(path, metadata, "dit"):
        if TEXT not in tensors or "noise_scale" not in header:
            raise InputError(f"{path} holds no text or no noise scale: give a file made by `seedvr2-lab train`")
        dit = fill(DiT(header["config"]), path, _dtype(dtype, torch.float32), ignore=(TEXT, NEGATIVE_TEXT))
        text, negative = (
            tensors[name].to(dit.vid_in.proj.weight) if name in tensors else None for name in (TEXT, NEGATIVE_TEXT)
        )
        told = {name: header[name] for name in HEADER if name in header}
        return Generator(dit, text, negative_text=negative, **told)
    size = source if source in PUBLISHED else _recognised(path, tensors)
    text = published_text()  # before the long work
    dit = fill(_empty_dit(size), path, _dtype(dtype, torch.bfloat16))
    return Generator(dit, text.to(dit.vid_in.proj.weight), noise_scale=1.0, vae="published")


def weights_hash(model: nn.Module) -> str:
    """16 hexadecimal digits that change with any weight."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _dtype(asked: Dtype, usual: torch.dtype) -> torch.dtype | None:
    return None if asked == "file" else asked or usual


def _save(path: Path, tensors: dict[str, Tensor], header: dict) -> None:
    halves = {name: value.detach().cpu().half().contiguous() for name, value in tensors.items()}
    with whole(path) as new:
        save_file(halves, new, metadata={name: json.dumps(value) for name, value in header.items()})


def _path(source: str | Path, kind: str, published_names: Collection[str]) -> Path:
    bundled = {path.stem.removeprefix(f"{kind}_"): path for path in BUNDLED.glob(f"{kind}_*.safetensors")}
    path = bundled.get(str(source), Path(source))
    if not path.is_file():
        names = f"bundled ({', '.join(sorted(bundled))}) nor published ({', '.join(published_names)})"
        raise InputError(f"model '{source}' is neither a file nor {names}")
    return path


def _header(path: Path, metadata: dict[str, str], kind: str) -> dict:
    """What one of our own files says about itself, with a configuration made from it; empty for other files."""
    if "kind" not in metadata:
        return {}
    try:
        header = {name: json.loads(value) for name, value in metadata.items() if name != "format"}
        if header["kind"] == kind:
            return header | {"config": _config(kind, header["config"])}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} has a header that cannot be read ({error}): make the file again") from None
    raise InputError(f"{path} holds no {kind} of this package: give a file made by `seedvr2-lab train`")


def _config(kind: str, fields: dict) -> DiTConfig | VAEConfig:
    # JSON knows no tuples; configurations do, for they are hashable.
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    if kind == "vae":
        return VAEConfig(**fields)
    return DiTConfig(**fields | {"windows": WindowScheme(**fields["windows"])})


def _empty_dit(size: str) -> DiT:
    return empty(lambda: DiT(transformer_config(size)))


def _recognised(path: Path, tensors: dict[str, Tensor]) -> str:
    """The published size that most names and shapes of a file belong to."""
    found = {(name, value.shape) for name, value in tensors.items()}
    shared = {}
    for size in PUBLISHED:
        layout = _empty_dit(size).state_dict()
        shared[size] = len(found & {(name, value.shape) for name, value in layout.items()})
    best = max(shared, key=shared.get)
    if not shared[best]:
        raise InputError(f"{path} holds no transformer, neither our own nor the published 3b or 7b: give another file")
    return best
