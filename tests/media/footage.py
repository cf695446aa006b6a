"""Clips with their frame numbers burnt in, written without the package's own writer, and damaged on purpose."""

import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace

from seedvr2_lab.media.video import VideoReader

CLOSED_GOP = {"x264-params": "bframes=3:b-adapt=0:scenecut=0:keyint=12:min-keyint=12"}
OPEN_GOP = {"x264-params": CLOSED_GOP["x264-params"] + ":open-gop=1"}
VFR = [int(n) for n in np.cumsum(np.random.default_rng(0).integers(1500, 9000, 40))]


def picture(number: int, height: int = 96, width: int = 128) -> np.ndarray:
    """A moving coloured ramp with the number burnt in as eight black or white blocks."""
    y, x = np.mgrid[:height, :width]
    frame = np.stack([(x + number) % 256 * 0.5 + 60, y * 0.6 + 50, (x + y) * 0.5 + 70], -1).astype(np.uint8)
    for bit in range(8):
        frame[4:16, 4 + bit * 14 : 16 + bit * 14] = 235 if number >> bit & 1 else 16
    return frame


def number(frame: np.ndarray) -> int:
    return sum(int(frame[8:12, 8 + bit * 14 : 12 + bit * 14].mean() > 126) << bit for bit in range(8))


def numbers(frames) -> list[int]:
    return [number(frame) for frame in frames]


def add_tone(container, seconds: float, start: int) -> None:
    stream = container.add_stream("aac", rate=48000)
    for k in range(int(48000 * seconds) // 1024):
        tone = 0.1 * np.sin(np.arange(k * 1024, (k + 1) * 1024)[None] / 20)
        frame = av.AudioFrame.from_ndarray(tone.astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = 48000, k * 1024 + start * 48000, Fraction(1, 48000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def make(
    path: Path,
    frames: int = 40,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    rate: Fraction = Fraction(25),
    tick: Fraction | None = None,
    stamps: list[int] | None = None,
    size: tuple[int, int] = (96, 128),
    audio: bool = False,
    start: int = 0,
    tagged: bool = True,
    aspect: Fraction = Fraction(1),
    options: dict | None = None,
) -> Path:
    """A clip written without the package's own writer."""
    tick = tick or 1 / rate
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        coder = stream.codec_context
        coder.time_base, coder.gop_size, coder.sample_aspect_ratio = tick, 12, aspect
        if tagged:
            coder.colorspace, coder.color_range = Colorspace.ITU709, ColorRange.MPEG
        if audio:
            add_tone(container, float(frames / rate), start)
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(i, *size), format="rgb24")
            matrix = Colorspace.ITU709 if tagged else Colorspace.ITU601
            frame = frame.reformat(format=pixels, dst_colorspace=matrix, dst_color_range=ColorRange.MPEG)
            frame.pts, frame.time_base = (stamps[i] if stamps else i) + int(start / tick), tick
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def patch(source: Path, target: Path, box: bytes, offset: int, layout: str, *values: int) -> Path:
    """Copy of an MP4 with numbers overwritten at an offset behind a box's name."""
    data = bytearray(source.read_bytes())
    struct.pack_into(layout, data, data.index(box) + 4 + offset, *values)
    target.write_bytes(data)
    return target


def cut(source: Path, target: Path) -> Path:
    """Five frames cut from the front and ten from the back by an edit list; the header still counts forty."""
    data = source.read_bytes()
    (start,) = struct.unpack_from(">i", data, data.index(b"elst") + 4 + 12)
    return patch(source, target, b"elst", 8, ">Ii", 1000, start + 5 * 512)


def turn(source: Path, target: Path) -> Path:
    """To be shown turned clockwise by a quarter."""
    return patch(source, target, b"tkhd", 40, ">4i", 0, 65536, 0, -65536)  # after version 0's fields


def faststart(source: Path, target: Path) -> Path:
    """The index in front of the pictures."""
    with av.open(str(source)) as old, av.open(str(target), "w", options={"movflags": "faststart"}) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    return target


@dataclass(frozen=True)
class Kind:
    """A kind of file that readers get wrong, or that is only less common."""

    options: dict = field(default_factory=dict)  # of `make`
    change: Callable[[Path, Path], Path] | None = None  # of the finished file
    doubt: str = ""  # why decord is not asked for its frames; "" where it is
    shown: range = range(40)  # the numbers in its frames
    rotation: int = 0
    pixel_aspect: Fraction = Fraction(1)

    def build(self, path: Path) -> Path:
        if self.change is None:
            return make(path, **self.options)
        return self.change(make(path.with_name(f"plain-{path.name}"), **self.options), path)

    @property
    def size(self) -> tuple[int, int]:
        size = self.options.get("size", (96, 128))
        return size[::-1] if self.rotation % 180 else size

    def numbers(self, frames) -> list[int]:
        return numbers(np.rot90(frame, -self.rotation // 90) for frame in frames)

    def times(self) -> list[Fraction]:
        """Seconds since the first frame."""
        tick = self.options.get("tick") or 1 / self.options.get("rate", Fraction(25))
        stamps = self.options.get("stamps") or range(len(self.shown))
        return [(stamp - stamps[0]) * tick for stamp in stamps]


UNCOUNTED = "pictures cannot be counted by packets"
KINDS = {
    "plain.mp4": Kind(),
    "b-frames.mp4": Kind({"options": CLOSED_GOP}),
    "one frame.mp4": Kind({"frames": 1}, shown=range(1)),
    "ntsc.mkv": Kind({"rate": Fraction(30000, 1001)}),
    "odd size.webm": Kind({"codec": "libvpx-vp9", "size": (97, 129)}),
    "variable rate.mp4": Kind({"tick": Fraction(1, 90000), "stamps": VFR}),
    "sound.mp4": Kind({"audio": True}),
    "late start.mp4": Kind({"start": 2, "audio": True}),
    "lossless.mp4": Kind({"codec": "libx264rgb", "pixels": "rgb24", "options": {"qp": "0"}, "tagged": False}),
    "rotated.mp4": Kind(change=turn, rotation=-90),
    "anamorphic.mp4": Kind({"aspect": Fraction(16, 15)}, pixel_aspect=Fraction(16, 15)),
    "edit list.mp4": Kind(change=cut, doubt="edit list", shown=range(5, 30)),
    "open GOP.mp4": Kind({"options": OPEN_GOP}, doubt="open GOP"),
    "10 bit.mp4": Kind({"pixels": "yuv420p10le"}, doubt="more than 8 bits"),
    "10 bit.mkv": Kind(
        {"codec": "libx265", "pixels": "yuv420p10le", "options": {"x265-params": "log-level=none:no-open-gop=1"}},
        doubt="more than 8 bits",
    ),
    "untagged.mp4": Kind(
        {"tagged": False, "size": (720, 1280), "frames": 8}, doubt="untagged HD colours", shown=range(8)
    ),
    "mpeg4.avi": Kind({"codec": "mpeg4", "options": {"bf": "2"}}, doubt=UNCOUNTED),
    "program.ts": Kind({"audio": True}, doubt=UNCOUNTED),
    "raw.h264": Kind(doubt=UNCOUNTED),
}


def read(path: Path, **options) -> tuple[VideoReader, list[np.ndarray], list[Fraction]]:
    reader = VideoReader(path, **options)
    pairs = list(reader)
    return reader, [frame for frame, _ in pairs], [time for _, time in pairs]


def psnr(a, b) -> float:
    with np.errstate(divide="ignore"):  # equal frames have no noise
        return 10 * np.log10(255**2 / np.mean((np.asarray(a, float) - np.asarray(b, float)) ** 2))


def with_bytes(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def refusal(error: pytest.ExceptionInfo, path: Path) -> str:
    """The message, after the checks that hold for all of them: one line, the input named, a remedy after the cause."""
    message = str(error.value)
    assert "\n" not in message and str(path) in message and ";" in message
    return message
