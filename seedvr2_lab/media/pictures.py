"""Still pictures as uint8 RGB arrays (H, W, 3), and folders of them as the frames of a clip."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

from seedvr2_lab.console import InputError

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def read_picture(path: Path) -> np.ndarray:
    """The picture, turned upright by its EXIF tag; 16-bit grey is brought to 8 bit.

    Raises:
        InputError: not a picture, several pages, an alpha channel, or values beyond 16-bit integers.
    """
    with _opened(path) as image:
        upright = ImageOps.exif_transpose(image)
        if upright.mode.startswith("I;16"):
            upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
        return np.array(upright.convert("RGB"))


def picture_size(path: Path) -> tuple[int, int]:
    """Height and width of the upright picture, from its header alone; raises as `read_picture` does."""
    with _opened(path) as image:
        if image.format == "PNG" and "exif" not in image.info:  # Pillow would decode it all to look behind the pixels
            return image.size[::-1]
        lies = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        return image.size if lies else image.size[::-1]


def color_profile(path: Path) -> bytes | None:
    """The ICC profile of an RGB picture, which says what its colours are; None without one."""
    with _opened(path) as image:
        return image.info.get("icc_profile") if image.mode == "RGB" else None


def list_frames(folder: Path) -> list[Path]:
    """The pictures that lie in a folder, in natural order; hidden and other files are passed over."""
    paths = [path for path in folder.iterdir() if path.suffix.lower() in PICTURES and not path.name.startswith(".")]
    return sorted(paths, key=natural_key)


def natural_key(path: Path) -> tuple:
    """Sorts paths as people count: img2 before img10."""
    return tuple(
        [(int(part), part) if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name) if part]
        for name in path.parts
    )


def common_size(paths: list[Path], tolerant: bool) -> tuple[int, int]:
    """Height and width that all these pictures share; `tolerant` passes over those that cannot be read.

    Raises:
        InputError: several sizes, or a picture that cannot be read.
    """
    first_of = {}
    for path in paths:
        try:
            first_of.setdefault(picture_size(path), path)
        except InputError:
            if not tolerant or (path == paths[-1] and not first_of):
                raise
    (height, width), *others = first_of
    for size in others:
        sizes = f"{size[1]}x{size[0]}, others in its folder {width}x{height}"
        raise InputError(f"{first_of[size]}: is {sizes}; the frames of a clip have one size")
    return height, width


def save_picture(frame_HWC: np.ndarray, path: Path, profile: bytes | None = None) -> None:
    """Write the picture in the format of its suffix, with its ICC profile: exactly, or as JPEG of visually lossless
    quality."""
    options = {".webp": {"lossless": True}, ".jpg": {"quality": 95, "subsampling": 0}}
    suffix = path.suffix.lower().replace("jpeg", "jpg")
    if profile and suffix != ".bmp":
        options.setdefault(suffix, {})["icc_profile"] = profile
    Image.fromarray(frame_HWC).save(path, **options.get(suffix, {}))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The checked picture; whatever fails while it is open is a fault of the file."""
    try:
        with Image.open(path) as image:
            if getattr(image, "n_frames", 1) > 1:
                raise InputError(f"{path}: holds {image.n_frames} pictures; save the one you mean")
            if {"A", "a"} & set(image.getbands()) or "transparency" in image.info:
                raise InputError(f"{path}: has an alpha channel; flatten it onto a background first")
            if image.mode in ("I", "F"):
                raise InputError(f"{path}: has 32-bit values; save it with 8 bits a channel")
            yield image
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: is not a readable picture ({error}); check or save it again") from None
