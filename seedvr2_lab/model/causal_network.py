"""The ways of a clip through a causal network.

Shapes: B clips, C channels, T H W frames/height/width.

- Whole, layer after layer: where gradients are recorded.
- Frame by frame, layer after layer: fast, and of least memory for a dozen frames or less.
- Frame by frame, depth first: memory does not grow with the clip, which may arrive and leave in pieces.

All give the same result, because only convolutions look at other frames, and those remember what they need (`Memory`).
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from seedvr2_lab.model.video_layers import Memory, recorded

CLIPS = 4  # clips at a time on a processor: frames of more do not stay in its caches (32 took 1.4 times as long)
Layer = Callable[[Tensor, Memory | None], Tensor]  # (B, C, T, H, W) to the same of other sizes


class CausalNetwork(nn.Module):
    """A chain of layers; the first is `conv_in`.

    Attributes:
        recompute: where gradients are recorded, compute the inside of every layer a second time instead of keeping it.
    """

    conv_in: nn.Module
    recompute = False

    def layers(self) -> list[Layer]:
        raise NotImplementedError

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """A complete clip: whole where gradients are recorded, else frame by frame through one layer after another."""
        if recorded(x_BCTHW, self.conv_in.weight):
            for layer in self.layers():
                run = partial(checkpoint, layer, use_reentrant=False) if self.recompute else layer
                x_BCTHW = run(x_BCTHW, None)
            return x_BCTHW
        if x_BCTHW.is_cpu and len(x_BCTHW) > CLIPS:
            return torch.cat([self(clips) for clips in x_BCTHW.split(CLIPS)])
        frames = deque(_frames(x_BCTHW))
        for layer in self.layers():
            memory: Memory = {}
            for _ in range(len(frames)):
                frames.extend(_frames(layer(frames.popleft(), memory)))  # a frame that was used is freed
        return torch.cat(list(frames), 2)

    def stream(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """A clip in pieces of any number of frames, (B, C, T, H, W); its results as soon as they are known."""
        memory: Memory = {}
        for piece_BCTHW in pieces:
            yield from _depth_first(self.layers(), piece_BCTHW, memory)


def _frames(x_BCTHW: Tensor) -> tuple[Tensor, ...]:
    return x_BCTHW.split(1, 2) if x_BCTHW.shape[2] else ()


def _depth_first(layers: list[Layer], x_BCTHW: Tensor, memory: Memory) -> Iterator[Tensor]:
    """Every frame through all layers before the next one: what the convolutions remember, and one frame's work."""
    for i, layer in enumerate(layers):
        if x_BCTHW.shape[2] != 1:
            for frame_BCTHW in _frames(x_BCTHW):
                yield from _depth_first(layers[i:], frame_BCTHW, memory)
            return
        x_BCTHW = layer(x_BCTHW, memory)
    yield x_BCTHW
