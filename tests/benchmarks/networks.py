"""Prints how fast and how lean the networks at their published widths are: python tests/benchmarks/networks.py

Every case runs in a process of its own. Its first run gives the peak memory, beyond what the process held before it
built the network; later runs alternate with a large matrix product and a large convolution of the same dtype, which are
the limits of the machine at that moment. Of each the fastest run counts.

Operations are counted from shapes, two for a multiplication and an addition: linear layers, convolutions and
attention. What checkpointing computes again does not count.
"""

import argparse
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from itertools import product
from multiprocessing import get_context
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from seedvr2_lab.model.dit import DiT, DiTConfig
from seedvr2_lab.model.vae import VAEConfig, VideoVAE

# The first and the last kind of layer of the 3B model: one with separate weights for text, one with shared weights.
TWO_BLOCKS = DiTConfig(
    dim=2560, layers=2, heads=20, head_dim=128, separate_layers=1, mlp_hidden=6912, text_channels=5120, rope_dim=128
)
TEXT_TOKENS = 58
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Figures(NamedTuple):
    """What one case gave."""

    seconds: float
    peak_bytes: int
    operations: int
    matrix_rate: float  # operations per second of the large matrix product
    convolution_rate: float


class Blocks(nn.Module):
    """Two layers of the transformer, from latents of `frames` x 90 x 160 (tokens: `frames` x 45 x 80) to velocities."""

    def __init__(self, frames: int):
        super().__init__()
        self.dit = DiT(TWO_BLOCKS)
        self.shape = (1, TWO_BLOCKS.in_channels, frames, 90, 160)

    def forward(self) -> Tensor:
        like = {"device": self.dit.vid_in.proj.weight.device, "dtype": self.dit.vid_in.proj.weight.dtype}
        return self.dit(
            torch.randn(self.shape, **like), torch.randn(TEXT_TOKENS, TWO_BLOCKS.text_channels, **like), 500.0
        )


class TrainedBlocks(Blocks):
    """The same with the gradients of all weights."""

    def __init__(self, frames: int, checkpointing: bool):
        super().__init__(frames)
        self.dit.checkpointing = checkpointing

    def forward(self) -> Tensor:
        self.zero_grad(set_to_none=True)
        loss = super().forward().float().square().mean()
        loss.backward()
        return loss


class Encode(nn.Module):
    """The VAE on 5 frames of 256 x 256."""

    def __init__(self):
        super().__init__()
        self.vae = VideoVAE(VAEConfig())

    def forward(self) -> Tensor:
        weight = next(self.parameters())
        return self.vae.encode(torch.randn(1, 3, 5, 256, 256, device=weight.device, dtype=weight.dtype), sample=False)


class Decode(Encode):
    def forward(self) -> Tensor:
        weight = next(self.parameters())
        return self.vae.decode(torch.randn(1, 16, 2, 32, 32, device=weight.device, dtype=weight.dtype))


CASES: dict[str, Callable[[], nn.Module]] = {
    "2 blocks, 1x45x80": lambda: Blocks(1),
    "2 blocks, 5x45x80": lambda: Blocks(5),
    "2 blocks, 1x45x80, training": lambda: TrainedBlocks(1, checkpointing=False),
    "2 blocks, 1x45x80, training, checkpointing": lambda: TrainedBlocks(1, checkpointing=True),
    "2 blocks, 5x45x80, training": lambda: TrainedBlocks(5, checkpointing=False),
    "2 blocks, 5x45x80, training, checkpointing": lambda: TrainedBlocks(5, checkpointing=True),
    "VAE encode, 5x256x256": Encode,
    "VAE decode, 5x256x256": Decode,
}


def count_operations(make: Callable[[], nn.Module]) -> int:
    """Operations of a case, counted on tensors without content."""
    with torch.device("meta"):
        case = make()
    if isinstance(case, TrainedBlocks):
        case.dit.checkpointing = False
    with torch.set_grad_enabled(isinstance(case, TrainedBlocks)), FlopCounterMode(display=False) as counter:
        case()
    return counter.get_total_flops()


def limits(device: torch.device, dtype: torch.dtype) -> list[tuple[int, Callable[[], Tensor]]]:
    """Operations and the call of a large matrix product and of a large convolution."""
    like = {"device": device, "dtype": dtype}
    matrix = torch.randn(4096, 4096, **like)
    clip = torch.randn(1, 128, 5, 256, 256, **like).to(memory_format=torch.channels_last_3d)
    kernel = torch.randn(128, 128, 3, 3, 3, **like).to(memory_format=torch.channels_last_3d)
    return [
        (2 * 4096**3, lambda: matrix @ matrix),
        (2 * kernel.numel() * clip[0, 0].numel(), lambda: F.conv3d(clip, kernel, padding=1)),
    ]


def seconds(call: Callable[[], Tensor], device: torch.device) -> float:
    if device.type == "cuda":
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def peak_memory(device: torch.device) -> int:
    """The most bytes that this process has held so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def measure(name: str, dtype: torch.dtype, device: torch.device, repeats: int, threads: int | None) -> Figures:
    """Run one case; to be called in a new process."""
    if threads:
        torch.set_num_threads(threads)
    operations = count_operations(CASES[name])
    before = peak_memory(device)
    torch.set_default_dtype(dtype)  # conversion after building would need more memory than the run
    with torch.device(device):
        case = CASES[name]()
    torch.set_default_dtype(torch.float32)
    recorded = isinstance(case, TrainedBlocks)
    case.requires_grad_(recorded)
    with torch.set_grad_enabled(recorded):
        case()
        peak = peak_memory(device) - before
        works = [(operations, case), *limits(device, dtype)]
        times = [[seconds(call, device) for _, call in works] for _ in range(repeats)]
    best = [min(column) for column in zip(*times, strict=True)]
    rates = [count / duration for (count, _), duration in zip(works, best, strict=True)]
    return Figures(best[0], peak, operations, *rates[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", default="", help="parts of names, separated by ';' (default: all)")
    parser.add_argument("--dtypes", default="fp32,bf16")
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--threads", type=int, help="default: PyTorch's choice")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each case after the first")
    options = parser.parse_args()
    names = [name for name in CASES if any(part in name for part in options.cases.split(";"))]

    print(f"{options.device}, {options.threads or torch.get_num_threads()} threads, PyTorch {torch.__version__}\n")
    print("| case | dtype | s | peak GB | TFLOP | GFLOP/s | of a matrix product | of a convolution |")
    print("|---" * 8 + "|")
    for name, dtype in product(names, options.dtypes.split(",")):
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            arguments = name, DTYPES[dtype], options.device, options.repeats, options.threads
            figures = process.submit(measure, *arguments).result()
        rate = figures.operations / figures.seconds
        print(
            f"| {name} | {dtype} | {figures.seconds:.3g} | {figures.peak_bytes / 1e9:.2f} "
            f"| {figures.operations / 1e12:.3g} | {rate / 1e9:.0f} "
            f"| {rate / figures.matrix_rate:.2f} of {figures.matrix_rate / 1e9:.0f} "
            f"| {rate / figures.convolution_rate:.2f} of {figures.convolution_rate / 1e9:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
