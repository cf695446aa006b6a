"""The data that is always there: photographs inside scikit-image and scikit-learn, moved by seeded camera paths.

A clip is (C, T, H, W), RGB in [0, 1]; batches are (B, C, T, H, W). Who may see what:

- evaluation: chelsea, china, flower, whole pictures, for final figures only, never for choosing anything;
- validation: the right quarter of every training picture, for choosing hyperparameters;
- training: the rest, with seeded procedural pictures beside it.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from PIL import Image, ImageDraw
from torch import Tensor

from seedvr2_lab.console import InputError
from seedvr2_lab.media.degrade import resize

EVALUATION = ("chelsea", "china", "flower")
TRAINING = (
    "astronaut", "coffee", "rocket", "motorcycle", "hubble_deep_field", "immunohistochemistry", "retina", "colorwheel",
    "brick", "grass", "gravel", "camera", "coins", "cell", "moon", "page", "text",
)  # fmt: skip
PROCEDURAL = 48  # pictures in the training pool
PROCEDURAL_SHARE = 0.2  # of the crops of a training batch
FURTHEST = 2.0  # times as far as a picture was taken from are varied clips

Part = Literal["training", "validation", "evaluation"]
# (batch, frames, (height, width), generator) -> (B, 3, T, *size) in [0, 1], such as partial(sample_clips, "training")
Source = Callable[[int, int, tuple[int, int], torch.Generator], Tensor]


@cache
def load_picture(name: str) -> Tensor:
    """A bundled photograph, (3, H, W) in [0, 1]; grey ones have three equal channels."""
    if name in ("china", "flower"):
        from sklearn.datasets import load_sample_image

        pixels = load_sample_image(f"{name}.jpg")
    else:
        import skimage.data

        pixels = skimage.data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(skimage.data, name)()
    pixels = np.atleast_3d(pixels)[..., :3]
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1).expand(3, -1, -1).float() / 255


@cache
def pictures(part: Part) -> tuple[Tensor, ...]:
    """The pictures of a part of the data, each (3, H, W) in [0, 1]; procedural ones are not among them."""
    if part == "evaluation":
        return tuple(load_picture(name) for name in EVALUATION)
    whole = [load_picture(name) for name in TRAINING]
    cuts = [picture.shape[2] * 3 // 4 for picture in whole]
    if part == "validation":
        return tuple(picture[:, :, cut:] for picture, cut in zip(whole, cuts, strict=True))
    return tuple(picture[:, :, :cut] for picture, cut in zip(whole, cuts, strict=True))


def procedural_picture(seed: int, size: int = 320) -> Tensor:
    """Dead leaves, a chirped grating or text by turns, (3, size, size) in [0, 1]: edges and textures of every scale."""
    random = np.random.default_rng(seed)
    kind = ("leaves", "grating", "text")[seed % 3]
    if kind == "grating":
        y, x = np.mgrid[:size, :size] / size
        angle, low, high = random.uniform(0, math.pi), random.uniform(5, 20), random.uniform(20, 120)
        along = x * math.cos(angle) + y * math.sin(angle)
        wave = 0.5 + 0.5 * np.sin(2 * math.pi * (low * along + (high - low) / 2 * along**2))
        colors = random.uniform(0, 1, (2, 3, 1, 1))
        return torch.from_numpy(colors[0] * wave + colors[1] * (1 - wave)).float()
    image = Image.new("RGB", (size, size), tuple(random.integers(0, 256, 3).tolist()))
    draw = ImageDraw.Draw(image)
    if kind == "leaves":  # radii by a cubic power law look alike at every scale
        for radius in 60 * random.uniform(0.01, 1, 900) ** 3 + 2:
            x, y = random.uniform(0, size, 2)
            draw.ellipse(
                (x - radius, y - radius, x + radius, y + radius), fill=tuple(random.integers(0, 256, 3).tolist())
            )
    else:
        for y in range(0, size, 18):
            letters = "".join(map(chr, random.integers(33, 127, 60)))
            color = tuple(random.integers(0, 256, 3).tolist())
            draw.text((random.uniform(-20, 0), y), letters, color, font_size=random.uniform(9, 28))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255


@cache
def _procedural_pool() -> tuple[Tensor, ...]:
    return tuple(procedural_picture(seed) for seed in range(PROCEDURAL))


@dataclass(frozen=True)
class CameraPath:
    """Where a camera above a picture is in every frame; all fields but the last are (T, 1, 1)."""

    center_y: Tensor  # in pixels of the picture
    center_x: Tensor
    zoom: Tensor  # picture pixels a frame pixel
    angle: Tensor  # radians
    picture_size: tuple[int, int]

    def sources(self, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The rows and the columns of the picture that frames of this size show, each (T, H, W)."""
        y, x = _from_center(size)
        source_y = self.center_y + self.zoom * (y * self.angle.cos() + x * self.angle.sin())
        source_x = self.center_x + self.zoom * (x * self.angle.cos() - y * self.angle.sin())
        return source_y, source_x

    def flow(self, size: tuple[int, int]) -> Tensor:
        """The motion from each frame to the next, (T - 1, 2, H, W) in pixels, down and right.

        What a frame shows at p, the next one shows at p + flow. nan where the frame looks beyond the picture, where
        clips hold a reflection.
        """
        y, x = _from_center(size)
        source_y, source_x = (source[:-1] for source in self.sources(size))
        down = (source_y - self.center_y[1:]) / self.zoom[1:]
        right = (source_x - self.center_x[1:]) / self.zoom[1:]
        next_y = down * self.angle[1:].cos() - right * self.angle[1:].sin()
        next_x = down * self.angle[1:].sin() + right * self.angle[1:].cos()
        H, W = self.picture_size
        beyond = (source_y < 0) | (source_y > H) | (source_x < 0) | (source_x > W)
        return torch.stack([next_y - y, next_x - x], 1).masked_fill(beyond[:, None], math.nan)


def _from_center(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Rows and columns of a frame, counted from its centre, each (H, W)."""
    h, w = size
    return torch.meshgrid(torch.arange(h) - (h - 1) / 2, torch.arange(w) - (w - 1) / 2, indexing="ij")


def camera_path(
    picture_size: tuple[int, int], frames: int, size: tuple[int, int], generator: torch.Generator
) -> CameraPath:
    """The flight of `camera_clip`, for several frames: with a generator in the same state, the same one."""
    (H, W), (h, w) = picture_size, size

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    time = torch.linspace(-0.5, 0.5, frames)
    pace = (frames - 1) / 16  # so that longer clips move further, not slower
    zoom = uniform(0.6, 0.95) * (1 + uniform(-0.3, 0.3) * pace * time).clamp(0.7, 1.3)
    angle = uniform(-0.2, 0.2) + uniform(-0.2, 0.2) * pace * time
    reach_y, reach_x = max(0.0, H - h) / 2, max(0.0, W - w) / 2
    center_y = H / 2 + uniform(-reach_y, reach_y) + uniform(-h / 2, h / 2) * pace * time
    center_x = W / 2 + uniform(-reach_x, reach_x) + uniform(-w / 2, w / 2) * pace * time
    parts = (part[:, None, None] for part in (center_y, center_x, zoom.clamp(max=1), angle))
    return CameraPath(*parts, picture_size)


def camera_clip(picture: Tensor, frames: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """A seeded camera flight over a picture: pan, zoom and rotation with constant speed.

    Args:
        picture: (3, H, W), at least as large as `size`.
        frames: T; a single frame is a plain crop, so that it stays as sharp as the picture.
        size: height and width of the clip.

    Returns:
        (3, T, *size). A clip pixel never steps over more than one picture pixel, so nothing aliases.
    """
    (H, W), (h, w) = picture.shape[1:], size
    if frames == 1:
        top = int(torch.randint(H - h + 1, (), generator=generator))
        left = int(torch.randint(W - w + 1, (), generator=generator))
        return picture[:, None, top : top + h, left : left + w]
    source_y, source_x = camera_path((H, W), frames, size, generator).sources(size)
    grid = torch.stack([source_x * 2 / W - 1, source_y * 2 / H - 1], -1)
    sampled = F.grid_sample(
        picture.expand(frames, -1, -1, -1), grid, mode="bicubic", padding_mode="reflection", align_corners=False
    )
    return rearrange(sampled, "T C H W -> C T H W").clamp(0, 1)


def sample_clips(part: Part, batch: int, frames: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """A batch of random clips, (B, 3, T, *size): crops moved by a camera, flipped at random.

    Pictures smaller than `size` are left out. Only training batches hold procedural pictures.
    """
    photos = _as_large(pictures(part), size)
    if not photos:
        raise InputError(f"no {part} picture is as large as {size[1]}x{size[0]}: ask for a smaller crop")
    clips = []
    for _ in range(batch):
        procedural = part == "training" and float(torch.rand((), generator=generator)) < PROCEDURAL_SHARE
        pool = (_as_large(_procedural_pool(), size) if procedural else []) or photos
        picture = pool[int(torch.randint(len(pool), (), generator=generator))]
        clip = camera_clip(picture, frames, size, generator)
        clips.append(clip.flip(-1) if float(torch.rand((), generator=generator)) < 0.5 else clip)
    return torch.stack(clips)


def varied(draw: Source, furthest: float = FURTHEST) -> Source:
    """Clips of another source from up to `furthest` times as far away, turned, in other colours, lighter or darker.

    A restorer that has seen few photographs, if in many crops, knows them and not others.
    """

    def vary(frames: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        def chance() -> float:
            return float(torch.rand((), generator=generator))

        far = 1 + (furthest - 1) * chance()
        turned = size[0] == size[1] and chance() < 0.5
        large = (round(far * size[0]), round(far * size[1]))
        frames_TCHW = draw(1, frames, large, generator)[0].transpose(0, 1)
        frames_TCHW = resize(frames_TCHW, size)
        if turned:
            frames_TCHW = frames_TCHW.transpose(2, 3)
        frames_TCHW = frames_TCHW.flip([axis for axis in (2, 3) if chance() < 0.5])
        if chance() < 0.5:
            frames_TCHW = frames_TCHW[:, torch.randperm(3, generator=generator)]
        return frames_TCHW.transpose(0, 1) ** 2 ** (chance() - 0.5)

    def clips(batch: int, frames: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
        return torch.stack([vary(frames, size, generator) for _ in range(batch)])

    return clips


def _as_large(found: Sequence[Tensor], size: tuple[int, int]) -> list[Tensor]:
    return [picture for picture in found if picture.shape[1] >= size[0] and picture.shape[2] >= size[1]]
