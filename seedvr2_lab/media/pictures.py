"""Still pictures as uint8 RGB arrays (H, W, 3)."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from seedvr2_lab.console import InputError

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def read_picture(path: Path) -> np.ndarray:
    """The picture, turned upright by its EXIF tag; 16-bit grey is brought to 8 bit.

    Raises:
        InputError: not a picture, several pages, an alpha channel, or values beyond 16-bit integers.
    """
    try:
        with Image.open(path) as image:
            if getattr(image, "n_frames", 1) > 1:
                raise InputError(f"{path}: holds {image.n_frames} pictures; save the one you mean")
            if {"A", "a"} & set(image.getbands()) or "transparency" in image.info:
                raise InputError(f"{path}: has an alpha channel; flatten it onto a background first")
            if image.mode in ("I", "F"):
                raise InputError(f"{path}: has 32-bit values; save it with 8 bits a channel")
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I;16"):
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            return np.array(upright.convert("RGB"))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: is not a readable picture ({error}); check or save it again") from None


def save_picture(frame_HWC: np.ndarray, path: Path) -> None:
    """Write the picture in the format of its suffix: exactly, or as JPEG of visually lossless quality."""
    options = {".webp": {"lossless": True}, ".jpg": {"quality": 95, "subsampling": 0}}
    suffix = path.suffix.lower().replace("jpeg", "jpg")
    Image.fromarray(frame_HWC).save(path, **options.get(suffix, {}))
