"""What the published pipeline does to a clip before the VAE: resize to an area, crop to whole tokens, repeat frames.

`restore` asks for an exact size instead and pads where this crops, so that no pixel of the result is missing; from
here it takes the number of frames.

Shapes: T C H W frames/channels/height/width.
"""

from math import sqrt

from torch import Tensor

from seedvr2_lab.media.degrade import resize


def area_size(size: tuple[int, int], resolution: tuple[int, int]) -> tuple[int, int]:
    """The height and width of about as many pixels as `resolution`, with the aspect ratio of `size`."""
    scale = sqrt(resolution[0] * resolution[1] / (size[0] * size[1]))
    return round(size[0] * scale), round(size[1] * scale)


def crop_box(size: tuple[int, int], multiple: int = 16) -> tuple[slice, slice]:
    """The rows and columns of the largest centred frame whose sides are multiples of `multiple`."""
    starts = (round(side % multiple / 2) for side in size)
    return tuple(slice(start, start + side - side % multiple) for start, side in zip(starts, size, strict=True))


def padded_length(frames: int, multiple: int = 4) -> int:
    """The least k * multiple + 1 that is not below `frames`: a clip with a latent."""
    return frames + -(frames - 1) % multiple


def to_area(frames_TCHW: Tensor, resolution: tuple[int, int]) -> Tensor:
    """Frames in [0, 1], resized to the area of `resolution` and cropped to multiples of 16."""
    size = area_size(tuple(frames_TCHW.shape[-2:]), resolution)
    return resize(frames_TCHW, size)[(..., *crop_box(size))]
