"""How much memory a restoration needs, how much there is, and which settings would fit.

The convolutions' memories, which are most of what the VAE needs, are measured on a small frame; the rest is counted in
multiples of what passes through, by factors found by measuring (tests/restore/test_memory.py holds them to it).
"""

import sys
from dataclasses import replace
from itertools import product
from math import prod
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from seedvr2_lab.console import InputError
from seedvr2_lab.media.transform import padded_length
from seedvr2_lab.model.causal_network import CausalNetwork
from seedvr2_lab.model.vae import VideoVAE
from seedvr2_lab.model.video_layers import CausalConv3d
from seedvr2_lab.restore.restorer import Restorer
from seedvr2_lab.restore.settings import Settings

try:
    import resource
except ImportError:  # Windows
    resource = None

FRAME_BYTES = 72  # for each pixel of each frame of a chunk: six pictures in float32
LAYER_FRAMES = 13  # frames of the widest layer that are alive at a time
TOKEN_WIDTHS = 15  # numbers that the transformer holds for each token, in multiples of its width
PROBE = 8  # places of the latent on a side of the small frame
CHUNKS, TILES = (17, 9, 5, 1), (None, 1024, 512, 256, 128)  # what is proposed, in this order


def needed(restorer: Restorer, size: tuple[int, int], frames: int, settings: Settings) -> int:
    """Bytes for a clip of so many frames at that size, on the device of the models and beyond their weights."""
    vae, dit = restorer.vae.config, restorer.generator.dit.config
    height, width = (side + -side % restorer.multiple for side in size)
    chunk, _ = settings.lengths(vae.temporal_factor)
    length = padded_length(min(chunk, frames), vae.temporal_factor)
    total = length * height * width * FRAME_BYTES
    if not settings.strength:
        return total
    area = height * width if settings.tile is None else min(height, settings.tile) * min(width, settings.tile)
    latent_frames = (length - 1) // vae.temporal_factor + 1
    tokens = latent_frames * height * width // restorer.multiple**2
    numbers = tokens * TOKEN_WIDTHS * max(dit.dim, dit.heads * dit.head_dim)
    return total + max(int(area * _vae_bytes(restorer, length)), numbers * restorer.generator.text.element_size())


def available(device: str) -> int | None:
    """Bytes that this process can still take on the device, as far as the system tells."""
    if torch.device(device).type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if torch.device(device).type != "cpu":
        return None
    rooms = [room for room in (_machine(), _control_group()) if room is not None]
    return min(rooms, default=None)


def require(restorer: Restorer, size: tuple[int, int], frames: int, settings: Settings) -> int:
    """What `needed` says; InputError with settings that would fit if that is more than there is."""
    need, room = needed(restorer, size, frames, settings), available(restorer.device)
    if room is not None and need > room:
        raise InputError(
            f"{size[1]}x{size[0]} needs about {gigabytes(need)} of memory and {gigabytes(room)} are free: "
            + advice(restorer, size, frames, settings, room)
        )
    return need


def advice(restorer: Restorer, size: tuple[int, int], frames: int, settings: Settings, room: int) -> str:
    """The mildest options that need less than this."""
    factor = restorer.vae.config.temporal_factor
    usual, _ = settings.lengths(factor)
    for chunk, tile in product((usual, *(c for c in CHUNKS if c < usual)), TILES):
        if settings.tile is not None and (tile is None or tile > settings.tile):
            continue
        milder = replace(settings, chunk=chunk, overlap=None if chunk < usual else settings.overlap, tile=tile)
        if milder != settings and (need := needed(restorer, size, frames, milder)) < room:
            options = [f"--chunk {chunk}"] if chunk < usual else []
            options += [f"--tile {tile}"] if tile != settings.tile else []
            return f"try {' '.join(options)} (about {gigabytes(need)})"
    return "no chunk or tile would fit; give a smaller size"


def peak(device: str) -> int:
    """The most bytes that this process has held so far, on a GPU the most of its tensors; 0 where nothing tells."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if resource is None:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB"


_MEASURED: WeakKeyDictionary[VideoVAE, dict[bool, float]] = WeakKeyDictionary()  # whether of one frame -> bytes


def _vae_bytes(restorer: Restorer, frames: int) -> float:
    """`_measured_bytes`, measured once for a VAE."""
    known = _MEASURED.setdefault(restorer.vae, {})
    if (frames == 1) not in known:
        known[frames == 1] = _measured_bytes(restorer, frames)
    return known[frames == 1]


@torch.inference_mode()
def _measured_bytes(restorer: Restorer, frames: int) -> float:
    """Of the hungrier half of the VAE for a clip of so many frames, for each pixel."""
    vae = restorer.vae
    side = PROBE * vae.config.spatial_factor
    weight = restorer.generator.text
    frame = torch.zeros(1, vae.config.in_channels, 1, side, side, device=restorer.device, dtype=weight.dtype)
    latent = torch.zeros(1, vae.config.latent_channels, 1, PROBE, PROBE, device=restorer.device, dtype=weight.dtype)
    return max(_stream_bytes(vae.encoder, frame, frames), _stream_bytes(vae.decoder, latent, frames)) / side**2


def _stream_bytes(network: CausalNetwork, frame_BCTHW: Tensor, frames: int) -> int:
    """What a stream of such frames holds: what its convolutions remember, and the frames of its widest layer."""
    remembered = widest = 0

    def note(conv: CausalConv3d, inputs: tuple[Tensor, ...]) -> None:
        nonlocal remembered, widest
        one = prod(inputs[0].shape) // inputs[0].shape[2] * inputs[0].element_size()
        remembered += min(conv.kernel_size[0] - 1, frames) * one  # a single frame stands for its own past
        widest = max(widest, one)

    hooks = [module.register_forward_pre_hook(note) for module in network.modules() if isinstance(module, CausalConv3d)]
    try:
        for _ in network.stream([frame_BCTHW]):
            pass
    finally:
        for hook in hooks:
            hook.remove()
    return remembered + LAYER_FRAMES * widest


def _machine() -> int | None:
    """What Linux calls available."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return None


def _control_group(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int | None:
    """The least room that a control group of this process (version 2 or 1) leaves; files it could drop count as
    free."""
    names = {2: ("memory.max", "memory.current", "inactive_file"), 1: (
        "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
    )}  # fmt: skip
    try:
        entries = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return None
    rooms = []
    for _, controllers, path in entries:
        version, base = (2, root) if not controllers else (1, root / "memory")
        if version == 1 and "memory" not in controllers.split(","):
            continue
        limit, usage, droppable = names[version]
        group = base / path.strip("/")
        for folder in (group, *group.parents):
            try:
                most = (folder / limit).read_text().strip()
                statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
                used = int((folder / usage).read_text()) - int(statistics.get(droppable, 0))
            except (OSError, ValueError):
                pass
            else:
                if most != "max":
                    rooms.append(max(0, int(most) - used))
            if folder == base:
                break
    return min(rooms, default=None)
