"""What storage does to pictures: JPEG frame by frame, and real video encoders over all frames.

Frames are (3, H, W) in [0, 1]; values beyond are clipped, and what comes back has 8-bit levels.
"""

import io
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import NamedTuple

import av
import numpy as np
import torch
from av.video.reformatter import Colorspace
from PIL import Image
from torch import Tensor

from seedvr2_lab.media.pixels import SMOOTH, rgb_converter


class VideoCodec(NamedTuple):
    """An encoder, its decoder, and its own scale of quality from hardly visible to plainly visible loss."""

    encoder: str
    decoder: str
    mild: int
    severe: int

    def quality(self, strength: float) -> int:
        """A point on that scale; strength 0 is its mild end, 1 its severe one."""
        return round(self.mild + strength * (self.severe - self.mild))


VIDEO_CODECS = {
    "h264": VideoCodec("libx264", "h264", 18, 38),  # constant rate factor
    "h265": VideoCodec("libx265", "hevc", 18, 38),  # constant rate factor
    "mpeg4": VideoCodec("mpeg4", "mpeg4", 2, 31),  # quantiser
}
SMALLEST = 64  # pixels a side: libx265 refuses less than 16 and below 56 writes where it should not
RATE = 25  # frames per second: encoders judge by it how long a frame is seen


def to_pixels(frame_CHW: Tensor) -> np.ndarray:
    """(H, W, 3) uint8."""
    return (frame_CHW.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).contiguous().numpy()


def from_pixels(frame_HWC: np.ndarray) -> Tensor:
    """(3, H, W) in [0, 1]."""
    return torch.from_numpy(frame_HWC).permute(2, 0, 1).float() / 255


def jpeg(frame_CHW: Tensor, quality: int) -> Tensor:
    """The frame after a JPEG file of that quality, 1 to 100, with colours at half resolution."""
    file = io.BytesIO()
    Image.fromarray(to_pixels(frame_CHW)).save(file, "JPEG", quality=quality)
    return from_pixels(np.array(Image.open(file)))


def video(frames: Iterable[Tensor], codec: str, quality: int) -> Iterator[Tensor]:
    """The frames after one encoder and its decoder: as many, in the same order.

    One stream from the first frame to the last, fed as the frames come: holds the few dozen frames that the encoder
    looks ahead. Quality is constant, since a bitrate means something else at every size and length. The same frames
    give the same bytes.

    Args:
        codec: a key of `VIDEO_CODECS`.
        quality: on the codec's own scale, higher is worse.
    """
    encoder, height, width = None, 0, 0
    decoder = av.CodecContext.create(VIDEO_CODECS[codec].decoder, "r")
    decoder.thread_count = 1

    def decoded(packets: Iterable[av.Packet | None]) -> Iterator[Tensor]:
        for packet in packets:
            for picture in decoder.decode(packet):
                pixels_HWC = picture.to_ndarray(format="rgb24", interpolation=SMOOTH, src_colorspace=Colorspace.ITU709)
                yield from_pixels(pixels_HWC[:height, :width])

    for index, frame_CHW in enumerate(frames):
        pixels_HWC = to_pixels(frame_CHW)
        if encoder is None:
            height, width = pixels_HWC.shape[:2]
            missing = [max(SMALLEST - side, side % 2) for side in (height, width)]  # 4:2:0 has whole 2x2 blocks only
            padding = [(0, missing[0]), (0, missing[1]), (0, 0)]
            whole = height + missing[0], width + missing[1]
            encoder, convert = _encoder(codec, quality, *whole), rgb_converter(*whole, "yuv420p")
        picture = convert(np.ascontiguousarray(np.pad(pixels_HWC, padding, mode="edge")))
        picture.pts, picture.time_base = index, Fraction(1, RATE)
        yield from decoded(encoder.encode(picture))
    if encoder is not None:
        yield from decoded([*encoder.encode(None), None])


def _encoder(codec: str, quality: int, height: int, width: int) -> av.VideoCodecContext:
    encoder = av.CodecContext.create(VIDEO_CODECS[codec].encoder, "w")
    encoder.height, encoder.width, encoder.pix_fmt = height, width, "yuv420p"
    encoder.time_base, encoder.framerate, encoder.thread_count = Fraction(1, RATE), Fraction(RATE), 1
    # x264's macroblock tree and x265's slower presets use memory that they never wrote, so their bytes vary.
    encoder.options = {
        "h264": {"crf": str(quality), "x264-params": "mbtree=0"},
        "h265": {
            "crf": str(quality),
            "preset": "ultrafast",
            "x265-params": "log-level=error:pools=none:frame-threads=1",
        },
        "mpeg4": {"qmin": str(quality), "qmax": str(quality)},
    }[codec]
    return encoder
