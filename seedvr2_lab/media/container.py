"""What a video file really holds, learnt from its packets: the right stream, the exact count, the clock, the damage.

Headers cannot be trusted with any of these: `frames` counts what an edit list hides, a truncated file announces its
former length, Matroska rounds every time stamp to a millisecond.
"""

import math
import os
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
from av.stream import Disposition

from seedvr2_lab.console import InputError

HIDDEN = Disposition.attached_pic | Disposition.timed_thumbnails  # cover art and previews are not the video
EBML, SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"  # the two outermost elements of a Matroska file
VP8_SHOWN = 0x10  # bit of a packet's first byte: some packets only prepare later pictures


def require_file(path: Path) -> None:
    """Raise InputError unless there is a file with something in it."""
    if not path.exists():
        raise InputError(f"{path}: no such file; check the spelling of the path")
    if not path.is_file():
        raise InputError(f"{path}: is not a file; name a video, a picture or a folder of frames")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: is empty; copy or download it again")


def open_video(path: Path) -> av.container.InputContainer:
    """The opened container; InputError if FFmpeg does not know it. A playlist in disguise gets no network."""
    require_file(path)
    try:
        container = av.open(f"file:{path}", options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except av.FFmpegError as error:
        raise InputError(f"{path}: is not a readable video ({error.strerror}); check or download it again") from None
    if container.format.name == "tty":
        container.close()
        raise InputError(f"{path}: is a text, which FFmpeg would play as a terminal; name a video")
    return container


def choose_stream(path: Path, container: av.container.InputContainer, index: int | None) -> av.VideoStream:
    """The video stream of that container index, or the one with the largest pictures."""
    videos = [s for s in container.streams.video if s.codec_context and not s.disposition & HIDDEN]
    if not videos:
        raise InputError(f"{path}: holds no video stream; name a file with pictures in it")
    if index is None:
        return max(videos, key=lambda s: s.codec_context.width * s.codec_context.height)
    named = [s for s in videos if s.index == index]
    if not named:
        choices = ", ".join(f"{s.index} ({s.codec_context.width}x{s.codec_context.height})" for s in videos)
        raise InputError(f"{path}: stream {index} is not one of its video streams; choose from {choices}")
    return named[0]


@dataclass(frozen=True)
class Clock:
    """Time stamps to seconds. A regular clip runs on an exact grid even where its container rounds the stamps.

    Attributes:
        rate: frames per second, the mean if not regular.
        regular: every stamp lies within its rounding of `origin + i / rate`.
        origin: time of the first frame, seconds.
        tick: the container's unit of time, seconds.
    """

    rate: Fraction
    regular: bool
    origin: Fraction
    tick: Fraction

    @property
    def time_base(self) -> Fraction:
        """The longest unit of which every frame's time is a multiple."""
        return Fraction(1, math.lcm(self.rate.numerator, self.origin.denominator)) if self.regular else self.tick

    def time(self, stamp: int) -> Fraction:
        time = stamp * self.tick
        return self.origin + round((time - self.origin) * self.rate) / self.rate if self.regular else time


@dataclass(frozen=True)
class Packets:
    """One pass over a file without decoding.

    Attributes:
        count: pictures shown, whatever the header says.
        announced: pictures the header counts; 0 where it does not.
        stamps: their presentation stamps in ascending order; empty where the file gives none or repeats some.
        keyframes: stamps of the keyframes, ascending; empty likewise.
        indexed: one packet is one picture, and the file announces its own duration (MP4, Matroska).
        edited: an edit list hides some pictures.
        leading: pictures after a keyframe are shown before it (open GOP): wrong or lost after a plain seek.
        damage: what is wrong with the file, else "".
    """

    count: int
    announced: int
    stamps: list[int]
    keyframes: list[int]
    indexed: bool
    edited: bool
    leading: bool
    damage: str

    def starting_at(self, stamp: int | None) -> "Packets":
        """Without the pictures before that one, which hang on a keyframe that was cut off and no player shows."""
        place = bisect_left(self.stamps, stamp) if self.stamps and stamp is not None else 0
        return replace(self, count=self.count - place, stamps=self.stamps[place:])

    def seek_stamp(self, stamp: int) -> int | None:
        """A keyframe from which decoding certainly reaches that picture; None: start at the beginning.

        One keyframe further back than it seems: pictures that lead a keyframe lean on the one before it.
        """
        place = bisect_right(self.keyframes, stamp) - 2
        return self.keyframes[place] if place > 0 else None


def scan(path: Path, container: av.container.InputContainer, video: av.VideoStream) -> Packets:
    """Read every packet of the open file. Memory: two integers a frame."""
    stamps, keyframes, newest_key, end, damage = [], [], None, Fraction(0), ""
    edited = leading = False
    is_vp8 = video.codec_context.name == "vp8"
    try:
        for packet in container.demux():  # all streams: the longest one tells where the file should end
            if packet.pts is not None:
                end = max(end, (packet.pts + (packet.duration or 0)) * packet.time_base)
            if packet.stream_index != video.index or not packet.size:
                continue
            if is_vp8 and not memoryview(packet)[0] & VP8_SHOWN:
                continue
            if packet.is_corrupt:
                damage = f"packet {len(stamps)} is incomplete"
            if packet.is_keyframe:
                newest_key = packet.pts
                keyframes.append(packet.pts)
            elif None not in (packet.pts, newest_key) and packet.pts < newest_key:
                leading = True
            edited |= packet.is_discard
            if not packet.is_discard:
                stamps.append(packet.pts)
    except av.FFmpegError as error:
        damage = f"unreadable after packet {len(stamps)}: {error.strerror}"
    indexed = container.format.name.startswith(("mov", "matroska"))
    duration = Fraction(container.duration or 0, av.time_base)
    if not damage and _is_cut_off(path):
        damage = "its end is missing"
    elif not damage and indexed and end < duration - Fraction(1, 2):
        damage = f"ends at {float(end):.1f} s of {float(duration):.1f} s"
    count = len(stamps)
    if None in stamps or len(set(stamps)) < count:
        stamps, keyframes = [], []
    return Packets(count, video.frames, sorted(stamps), sorted(keyframes), indexed, edited, leading, damage)


def _is_cut_off(path: Path) -> bool:
    """Whether the file is shorter than its outermost boxes say (MP4, Matroska, AVI); FFmpeg just stops there.

    Streams made to be cut, such as MPEG-TS, carry no such length.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        head = file.read(8)
        if head[4:] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide"):
            return _ends_inside_mp4_box(file, size)
        if head[:4] == EBML:
            return size < _matroska_end(file)
        return head[:4] == b"RIFF" and size < 8 + int.from_bytes(head[4:], "little")


def _ends_inside_mp4_box(file: BinaryIO, size: int) -> bool:
    """A box starts with 4 bytes of length and 4 of name; length 1: it follows in 8 bytes; 0: until the end."""
    position = 0
    while position < size:
        file.seek(position)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        length = int.from_bytes(head[8:], "big") if length == 1 else length
        if length < 8:
            return False
        if position + length > size:
            return head[4:8] in (b"moov", b"mdat", b"moof")  # cameras append what only looks like a box
        position += length
    return False


def _matroska_end(file: BinaryIO) -> int:
    """Where the segment behind the EBML header ends; 0 if it does not say, as in a live stream."""
    file.seek(len(EBML))
    file.seek(_matroska_length(file) or 0, os.SEEK_CUR)
    if file.read(len(SEGMENT)) != SEGMENT:
        return 0
    length = _matroska_length(file)
    return 0 if length is None else file.tell() + length


def _matroska_length(file: BinaryIO) -> int | None:
    """The number at this place: leading zero bits count its further bytes; all other bits set means unknown."""
    first = file.read(1)
    if first in (b"", b"\0"):
        return None
    further = 8 - first[0].bit_length()
    ones = (1 << 7 * (further + 1)) - 1
    number = int.from_bytes(first + file.read(further), "big") & ones
    return None if number == ones else number


def clock(video: av.VideoStream, stamps: list[int]) -> Clock:
    """The clock of a stream with these ascending stamps; without stamps, its nominal rate from zero."""
    rates = [rate for rate in (video.guessed_rate, video.average_rate, video.base_rate) if rate] or [Fraction(25)]
    if not stamps:
        return Clock(rates[0], True, Fraction(0), video.time_base)
    drift = np.array(stamps, np.float64) - stamps[0]
    for rate in rates:
        step = float(1 / (rate * video.time_base))  # ticks a frame
        rounding = 1 if step >= 4 else 0  # a tick as long as a frame hides nothing
        if np.abs(drift - np.arange(len(stamps)) * step).max() <= rounding + 1e-3:
            return Clock(rate, True, stamps[0] * video.time_base, video.time_base)
    mean = (len(stamps) - 1) / ((stamps[-1] - stamps[0]) * video.time_base)  # one stamp alone is regular
    return Clock(mean, False, stamps[0] * video.time_base, video.time_base)
