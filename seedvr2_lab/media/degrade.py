"""Low quality from high quality: a clip in memory, or a whole file frame by frame.

Two kinds of degradation, each a list of stages whose parameters are drawn from one generator, so that the same seed
gives the same bytes: `Degradation`, one order of blur, shrink, noise and JPEG with constant parameters, on which the
bundled models are trained, and `Recipe`, the real-world recipe of the paper.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from seedvr2_lab.console import InputError, progress
from seedvr2_lab.media.compression import from_pixels, jpeg, to_pixels
from seedvr2_lab.media.pictures import PICTURES
from seedvr2_lab.media.recipe import RECIPES, Recipe, Stage, each
from seedvr2_lab.media.video import VideoReader
from seedvr2_lab.media.video_writer import VideoWriter

Size = tuple[int, int, int]  # frames, height, width
Keep = Callable[[Stage, Tensor], None]  # (a stage, the frames after it as (T, 3, H, W))


@dataclass(frozen=True)
class Degradation:
    """Ranges that a clip's parameters are drawn from, uniformly."""

    scale: int = 4  # height and width of the high-quality clip over those of the low-quality one
    blur: tuple[float, float] = (0.2, 2.0)  # standard deviation of a Gaussian, in high-quality pixels
    noise: tuple[float, float] = (0.0, 0.03)  # standard deviation, of a full range of 1
    jpeg: tuple[int, int] = (60, 95)  # quality

    def stages(self, shape_THW: Size, generator: torch.Generator) -> list[Stage]:
        """All parameters drawn for clips of that shape, height and width being multiples of the scale.

        The noise of all frames is drawn at once and kept: 12 bytes for each pixel of the result.
        """

        def draw(low: float, high: float) -> float:
            return low + (high - low) * float(torch.rand((), generator=generator))

        T, H, W = shape_THW
        size = H // self.scale, W // self.scale
        blur = draw(*self.blur)
        noise_TCHW = torch.randn((T, 3, *size), generator=generator)
        sigma, quality = draw(*self.noise), round(draw(*self.jpeg))
        return [
            Stage("blur", f"Gaussian, σ {blur:.1f}", each(lambda frame, t: _blur(frame[None], blur)[0])),
            Stage("resize", f"bicubic, {size[0]}×{size[1]}", each(lambda frame, t: resize(frame[None], size)[0])),
            Stage(
                "noise",
                f"colour Gaussian, σ {255 * sigma:.0f} of 255",
                each(lambda frame, t: (frame + sigma * noise_TCHW[t % T]).clamp(0, 1)),  # some files hold more frames
            ),
            Stage("jpeg", f"quality {quality}", each(lambda frame, t: jpeg(frame, quality))),
        ]


PRESETS: dict[str, Degradation | Recipe] = {"simple": Degradation(), **RECIPES}


def degrade(
    clip_CTHW: Tensor,
    generator: torch.Generator,
    degradation: Degradation | Recipe = Degradation(),
    keep: Keep = lambda stage, frames_TCHW: None,
) -> Tensor:
    """A low-quality twin of a clip in [0, 1]: (3, T, H, W) to (3, T, H/scale, W/scale), 8-bit levels.

    Height and width are cut to multiples of the scale at the right and the bottom before.

    Args:
        keep: called with every stage and its result, for looking inside and for taking times.

    Raises:
        InputError: nothing would be left of the clip's height or width.
    """
    shape_THW = _cut(tuple(clip_CTHW.shape[1:]), degradation.scale)
    frames_TCHW = clip_CTHW[:, :, : shape_THW[1], : shape_THW[2]].transpose(0, 1)
    with _one_thread():
        for stage in degradation.stages(shape_THW, generator):
            frames_TCHW = torch.stack(list(stage.apply(frames_TCHW)))
            keep(stage, frames_TCHW)
    return (frames_TCHW.clamp(0, 1) * 255).round().transpose(0, 1).contiguous() / 255


def degrade_file(
    source: str | Path,
    target: str | Path,
    *,
    preset: str = "paper",
    scale: int = 4,
    seed: int = 0,
    codec: str = "lossless",
    tolerant: bool = False,
    overwrite: bool = False,
) -> Size:
    """Degrade a video or picture file: same frames, same times, same audio.

    The frames are those that `degrade` makes of the whole clip. They pass through all stages one at a time: parameters
    depend on the frame's number alone, and each encoder of the recipe is one stream from the first frame to the last.
    Memory holds what the encoders look ahead, however long the video is; "simple" also holds its noise
    (`Degradation.stages`).

    Args:
        source, target: files; the target appears under its name only when complete.
        preset: a key of `PRESETS`.
        codec: of the target, a key of `video_writer.CODECS`; all but "lossless" add a loss of their own.
        tolerant: degrade what can be read of a damaged source.
        overwrite: replace an existing target.

    Returns:
        Frames, height and width of the target.

    Raises:
        InputError: a file or option cannot be used. Nothing has been written then.
    """
    source, target = Path(source), Path(target)
    if preset not in PRESETS:
        raise InputError(f"preset '{preset}' is unknown: choose from {', '.join(PRESETS)}")
    if not 1 <= scale <= 16:
        raise InputError(f"scale {scale} is out of range: give a whole number from 1 to 16")
    if target.exists() and not overwrite:
        raise InputError(f"{target} exists: give another name, or --overwrite")
    reader = VideoReader(source, tolerant=tolerant)
    info, is_picture = reader.info, target.suffix.lower() in PICTURES
    if is_picture and info.frames > 1:
        raise InputError(f"{target} is a picture but {source} has {info.frames} frames: end the target in .mp4")
    shape_THW = _cut((info.frames, info.height, info.width), scale, str(source))
    height, width = (side // scale for side in shape_THW[1:])
    audio = source if info.has_audio and not is_picture else None
    times = deque()  # of the frames that are on their way

    def read() -> Iterator[Tensor]:
        for frame_HWC, time in reader:
            times.append(time)
            yield from_pixels(frame_HWC[: shape_THW[1], : shape_THW[2]])

    frames, count = read(), 0
    for stage in replace(PRESETS[preset], scale=scale).stages(shape_THW, torch.Generator().manual_seed(seed)):
        frames = stage.apply(frames)
    with _one_thread(), VideoWriter(target, height, width, like=info, audio_from=audio, codec=codec) as writer:
        for frame_CHW in progress(frames, "degrade", total=info.frames, unit="frame"):
            writer.write(to_pixels(frame_CHW), [times.popleft()])
            count += 1
    return count, height, width


def resize(frames_TCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic with antialiasing, clamped to [0, 1]: the published pipeline's own resize, up and down."""
    if tuple(frames_TCHW.shape[-2:]) == tuple(size):
        return frames_TCHW
    return F.interpolate(frames_TCHW, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Rounding errors of some interpolations depend on the number of threads, and grow to grey levels later."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _cut(shape_THW: Size, scale: int, name: str = "a clip") -> Size:
    """The shape without the rows and columns that the scale leaves over."""
    T, H, W = shape_THW
    if min(H, W) < scale:
        raise InputError(f"{name}: {W}x{H} pixels are too few to be made {scale} times smaller; give a smaller scale")
    return T, H - H % scale, W - W % scale


def _blur(frames_TCHW: Tensor, sigma: float) -> Tensor:
    radius = math.ceil(3 * sigma)
    offsets = torch.arange(-radius, radius + 1)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(frames_TCHW.shape[1], 1, 1, -1)
    padded = F.pad(frames_TCHW, [radius] * 4, mode="replicate")
    across = F.conv2d(padded, kernel, groups=kernel.shape[0])
    return F.conv2d(across, kernel.transpose(2, 3), groups=kernel.shape[0])
