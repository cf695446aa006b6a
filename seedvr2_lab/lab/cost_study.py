"""What a restoration costs: operations counted from shapes, seconds measured phase by phase, and the published models
without their weights.

An operation is a multiplication or an addition. Linear layers, convolutions and attention are counted; norms,
activations and rotary turns are not, they are a few per cent. Grids and sizes are (T, H, W) or (H, W).
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import pairwise
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple
from unittest.mock import patch

import numpy as np
import torch
from matplotlib.ticker import LogLocator, NullLocator
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from seedvr2_lab.config import TRANSFORMERS, VAES, transformer_config, vae_config
from seedvr2_lab.lab.figures import COLORS, new_figure, token_count
from seedvr2_lab.media.transform import padded_length
from seedvr2_lab.model import published
from seedvr2_lab.model.causal_network import CausalNetwork
from seedvr2_lab.model.dit import DiT, DiTConfig
from seedvr2_lab.model.tensor_file import empty
from seedvr2_lab.model.vae import VAEConfig, VideoVAE
from seedvr2_lab.model.weights import Generator
from seedvr2_lab.model.windows import Size, partition
from seedvr2_lab.restore import Restorer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEXT_TOKENS = 58  # of the published text
PHASES = ("resize", "encode", "generate", "decode", "colour")
HATCHES = ("", "///", "...", "xx", "\\\\")  # beside the colours: parts must be told apart without them
NARROW = dict(dim=16, heads=2, head_dim=16, mlp_hidden=24, text_channels=40)
NARROW_VAE = dict(widths=(8, 8, 8, 8), norm_groups=4)


class Operations(NamedTuple):
    """Of one restoration, by what does them."""

    encode: int
    matrices: int  # of the transformer: all its linear layers
    attention: int  # its scores and weighted sums inside windows
    decode: int

    @property
    def transformer(self) -> int:
        return self.matrices + self.attention

    @property
    def vae(self) -> int:
        return self.encode + self.decode


def operations(
    transformer: DiTConfig, vae: VAEConfig, frames: int, size: tuple[int, int], steps: int = 1, text_tokens: int = 4
) -> Operations:
    """Of one clip in one piece, padded as the restorer pads it."""
    multiple = vae.spatial_factor * transformer.patch[0]
    height, width = (side + -side % multiple for side in size)
    frames = padded_length(frames, vae.temporal_factor)
    grid = (frames - 1) // vae.temporal_factor + 1, height // multiple, width // multiple
    matrices, attention = transformer_operations(transformer, grid, text_tokens)
    encode, decode = vae_operations(vae, grid[0], (height, width))
    return Operations(encode, steps * matrices, steps * attention, decode)


def transformer_operations(config: DiTConfig, grid: Size, text_tokens: int) -> tuple[int, int]:
    """Of one call for one clip: those of its linear layers and those of its attention.

    A linear layer takes two for each weight and token. A window of S tokens, text among them, has S² pairs in each
    head, and each pair takes two for each feature of the score and two for each of the weighted sum.
    """
    matrices = sum(2 * weights * tokens for weights, tokens in _linear_layers(config, prod(grid), text_tokens))
    pairs = [
        sum((token_count(window) + text_tokens) ** 2 for window in partition(grid, config.windows, shifted))
        for shifted in (False, True)
    ]
    layers = sum(pairs[layer % 2] for layer in range(config.layers))
    return matrices, 4 * config.heads * config.head_dim * layers


def _linear_layers(config: DiTConfig, video: int, text: int) -> Iterator[tuple[int, int]]:
    """(weights, tokens) of every use of a linear layer."""
    for name, weights, branch in _linear_names(config):
        first = name.partition(".")[0]
        if first == "emb_in":
            yield weights, 1  # the time is one for the whole clip
        elif first in ("vid_in", "vid_out") or branch == "vid":
            yield weights, video
        elif first == "txt_in" or branch == "txt":
            yield weights, text
        else:
            is_last = config.variant == "v2" and name.startswith(f"blocks.{config.layers - 1}.mlp")
            yield weights, video if is_last else video + text  # the last text is not updated


@cache
def _linear_names(config: DiTConfig) -> tuple[tuple[str, int, str], ...]:
    """(name, weights, "vid", "txt", "all" or "") of all linear layers."""
    found = []
    for name, module in empty(lambda: DiT(config)).named_modules():
        if isinstance(module, nn.Linear):
            branch = next((part for part in name.split(".") if part in ("vid", "txt", "all")), "")
            found.append((name, module.weight.numel(), branch))
    return tuple(found)


@cache
@torch.no_grad()
def vae_operations(config: VAEConfig, latent_frames: int, size: tuple[int, int]) -> tuple[int, int]:
    """Of encoding and of decoding one clip with that many latent frames, counted on the meta device.

    The first two latent frames are cheaper, because copies of the first frame are convolved once; from the third on
    each costs the same. So at most three are counted.
    """
    vae, (height, width) = empty(lambda: VideoVAE(config)), size
    places = height // config.spatial_factor, width // config.spatial_factor
    counted = min(latent_frames, 3)
    frames = [1, *[config.temporal_factor] * (counted - 1)]
    clip = [torch.empty(1, config.in_channels, count, height, width, device="meta") for count in frames]
    latent = [torch.empty(1, config.latent_channels, 1, *places, device="meta")] * counted
    sums = []
    for network, pieces in ((vae.encoder, clip), (vae.decoder, latent)):
        counts = _counts(network, pieces)
        sums.append(sum(counts) + (latent_frames - counted) * counts[-1])
    return tuple(sums)


def _counts(network: CausalNetwork, pieces: Sequence[Tensor]) -> list[int]:
    """Operations for each piece of a clip that is streamed."""
    totals = [0]

    def told() -> Iterator[Tensor]:
        for piece in pieces:
            yield piece
            totals.append(counter.get_total_flops())

    with FlopCounterMode(display=False) as counter:
        for _ in network.stream(told()):
            pass
    return [after - before for before, after in pairwise(totals)]


def phase_seconds(
    restorer: Restorer, clip_CTHW: Tensor, size: tuple[int, int], steps: int = 1
) -> tuple[Tensor, dict[str, float]]:
    """The clip restored in one piece, and the seconds of each of `PHASES`."""
    on_gpu = restorer.device != "cpu"
    ticks = []

    def tick(*_) -> None:
        if on_gpu:
            torch.cuda.synchronize(restorer.device)
        ticks.append(perf_counter())

    tick()
    restored = restorer(clip_CTHW, size, keep=tick, steps=steps, chunk=clip_CTHW.shape[1], overlap=0)
    tick()
    return restored, dict(zip(PHASES, np.diff(ticks).tolist(), strict=True))


@torch.inference_mode()
def call_seconds(dit: DiT, grid: Size, text_LD: Tensor) -> float:
    """Of one call of a transformer for one clip, after a call that does not count."""
    T, H, W = grid
    patch_h, patch_w = dit.config.patch
    clip = torch.zeros(1, dit.config.in_channels, T, H * patch_h, W * patch_w)
    dit(clip, text_LD, 1000.0)
    start = perf_counter()
    dit(clip, text_LD, 1000.0)
    return perf_counter() - start


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """e of cost ∝ size^e by least squares of the logarithms: 1 is linear, 2 is quadratic."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def part_bars(bars: Mapping[str, Mapping[str, float]], label: str) -> "Figure":
    """Horizontal bars made of parts.

    Args:
        bars: bar -> part -> its length.
        label: of the lengths, with their unit.
    """
    figure, axes = new_figure(height=1.3 + 0.36 * len(bars))
    parts = list(dict.fromkeys(part for bar in bars.values() for part in bar))
    starts = np.zeros(len(bars))
    for number, part in enumerate(parts):
        lengths = np.array([bar.get(part, 0.0) for bar in bars.values()])
        axes.barh(
            range(len(bars)), lengths, left=starts, height=0.66, label=part, color=COLORS[number % len(COLORS)],
            hatch=HATCHES[number % len(HATCHES)], edgecolor="white", lw=0.5,
        )  # fmt: skip
        starts += lengths
    axes.set(xlabel=label, yticks=range(len(bars)), yticklabels=list(bars), ylim=(len(bars) - 0.4, -0.6))
    axes.grid(axis="y", visible=False)
    figure.legend(loc="outside upper center", ncols=len(parts))
    return figure


def with_plain_ticks(figure: "Figure", places: Mapping[str, float]) -> "Figure":
    """A figure with logarithmic axes, its x labelled at these places only and no number written as a power."""
    for axes in figure.axes:
        axes.set_xticks(list(places.values()), list(places))
        axes.set_xticks([], minor=True)
        if axes.get_yscale() == "log":
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:,g}")
            axes.yaxis.set_minor_locator(NullLocator())
    return figure


def without_weights(size: str, dtype: torch.dtype = torch.bfloat16) -> Restorer:
    """The published models on the meta device: shapes and sizes of everything, memory for nothing."""
    dit = empty(lambda: DiT(transformer_config(size))).to(dtype)
    text_LD = torch.empty(TEXT_TOKENS, dit.config.text_channels, device="meta", dtype=dtype)
    vae = empty(lambda: VideoVAE(vae_config("published")))
    return Restorer(Generator(dit, text_LD, noise_scale=1.0, vae="published"), vae.eval(), "meta")


@contextmanager
def narrow_stand_in(size: str) -> Iterator[Path]:
    """A folder with random weights under all names of the published layouts, in narrow widths.

    Inside, `size` and "published" mean these models everywhere, and the folder is where published files are looked
    for: loading and restoring take exactly the way that the published files would take.
    """
    with (
        TemporaryDirectory(prefix="seedvr2-lab-narrow-") as name,
        patch.dict(TRANSFORMERS, {size: TRANSFORMERS[size] | NARROW}),
        patch.dict(VAES, {"published": NARROW_VAE}),
        patch.dict("os.environ", {published.FOLDER: name}),
        torch.random.fork_rng(),
    ):
        folder, text = Path(name), Path(name) / "pos_emb.pt"
        torch.manual_seed(0)
        for key, module in {size: DiT(transformer_config(size)), "vae": VideoVAE(vae_config("published"))}.items():
            torch.save(module.bfloat16().state_dict(), folder / published.FILES[key].name)
        torch.save(torch.randn(TEXT_TOKENS, NARROW["text_channels"], dtype=torch.bfloat16), text)
        with patch.dict(published.TEXTS, {text.name: hashlib.sha256(text.read_bytes()).hexdigest()}):
            yield folder
