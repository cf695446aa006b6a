"""A clip of any length as chunks that overlap, and back. Memory is that of one chunk."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor


class Chunk(NamedTuple):
    start: int  # the place of its first frame in the clip
    frames_TCHW: Tensor
    is_last: bool


def cut(frames: Iterable[Tensor], chunk: int, overlap: int, start: int = 0) -> Iterator[Chunk]:
    """Frames (C, H, W) as chunks of `chunk` frames, the last one of fewer.

    Each begins with the last `overlap` frames of the one before, which is what lets the model see what came earlier.

    Args:
        overlap: at most half a chunk.
        start: the place of the first of these frames in the clip.
    """
    held: list[Tensor] = []
    for frame_CHW in frames:
        if len(held) == chunk:  # only now it is known that this chunk is not the last
            yield Chunk(start, torch.stack(held), False)
            held = held[chunk - overlap :]
            start += chunk - overlap
        held.append(frame_CHW)
    if held:
        yield Chunk(start, torch.stack(held), True)


def join(chunks: Iterable[Chunk], overlap: int) -> Iterator[tuple[int, Tensor]]:
    """The frames of restored chunks in order, with the place of each run's first frame.

    Frames that two chunks hold go over from the one to the other in even steps.
    """
    tail_TCHW = None
    for start, frames_TCHW, is_last in chunks:
        if tail_TCHW is not None:
            share = torch.arange(1, overlap + 1) / (overlap + 1)
            blended_TCHW = torch.lerp(tail_TCHW, frames_TCHW[:overlap], share.view(-1, 1, 1, 1))
            frames_TCHW = torch.cat([blended_TCHW, frames_TCHW[overlap:]])
        done = len(frames_TCHW) - (0 if is_last else overlap)
        tail_TCHW = frames_TCHW[done:].clone() if done < len(frames_TCHW) else None
        yield start, frames_TCHW[:done]
