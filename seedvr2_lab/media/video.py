"""Reading video and pictures: every frame once, in order, at its own time.

One interface over two libraries. Iterating a `VideoReader` goes through PyAV from the first frame to the last; its
`sample` picks frames out through decord where decord can be trusted with the file, else through PyAV, and says which
one it was. A picture is a clip of one frame.

Frames are uint8 RGB, (H, W, 3) or (T, H, W, 3), upright. Times are exact `Fraction`s of a second.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from einops import reduce

from seedvr2_lab.console import InputError
from seedvr2_lab.media.container import choose_stream, clock, open_video, require_file, scan
from seedvr2_lab.media.pictures import PICTURES, read_picture

# FFmpeg's fast path repeats each chroma sample over 2x2 pixels; these flags interpolate it (2.7 dB on a photograph).
SMOOTH = (
    Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
)
UNTAGGED = 2  # FFmpeg's number for a colour matrix that the file does not name


@dataclass(frozen=True)
class VideoInfo:
    """What a reader delivers."""

    path: Path
    stream: int  # index in the container, as ffprobe counts
    frames: int  # pictures shown, counted from the packets
    height: int  # after rotation
    width: int
    rate: Fraction  # frames per second; the mean where `regular` is False
    regular: bool  # steps of exactly 1 / rate
    time_base: Fraction  # seconds; every frame's time is a multiple of it
    pixel_aspect: Fraction = Fraction(1)  # width : height of one pixel
    rotation: int = 0  # degrees counterclockwise, already applied
    has_audio: bool = False


@dataclass(frozen=True)
class Sample:
    """Frames picked by index: who read them ("decord", "pyav", "pillow"), and if not decord, why not."""

    frames_THWC: np.ndarray
    times: list[Fraction]
    reader: str
    reason: str = ""


class VideoReader:
    """A video or picture file, checked when the reader is made.

    Nothing stays open between calls, so a reader can be iterated twice and inherited by forked workers.

    Args:
        path: any video that FFmpeg decodes, or a picture (`PICTURES`).
        stream: container index of the video stream; by default the one with the largest pictures, cover art aside.
        tolerant: skip what is damaged (`skipped` counts the packets of the last pass) instead of refusing it.

    Raises:
        InputError: no such file, no video, no picture in it, truncated; while reading also damaged or changing size.
    """

    def __init__(self, path: str | os.PathLike, stream: int | None = None, tolerant: bool = False):
        self.path, self.tolerant, self.skipped = Path(path), tolerant, 0
        require_file(self.path)
        self._is_picture = self.path.suffix.lower() in PICTURES
        if self._is_picture:
            height, width, _ = read_picture(self.path).shape
            self.info = VideoInfo(self.path, 0, 1, height, width, Fraction(25), True, Fraction(1, 25))
            return
        with open_video(self.path) as container:
            video = choose_stream(self.path, container, stream)
            self._stream, has_audio = video.index, bool(container.streams.audio)
            packets = scan(container, video)
            if packets.damage and not tolerant:
                raise self._damaged(packets.damage)
            first = next(self._decode(), None)  # only a decoded picture tells its true size, rotation and colours
            if first is None:
                raise InputError(f"{self.path}: holds no picture that can be decoded; check how it was made")
            self._packets = packets.starting_at(first.pts)
            self._clock = clock(video, self._packets.stamps)
            aspect = video.sample_aspect_ratio or Fraction(1)
        first_HWC = _to_rgb(first)
        self._first_blocks = _blocks(first_HWC)
        self._is_deep, self._guesses_matrix = first.format.components[0].bits > 8, _guessed_matrix(first) is not None
        self.info = VideoInfo(
            path=self.path,
            stream=self._stream,
            frames=self._packets.count,
            height=first_HWC.shape[0],
            width=first_HWC.shape[1],
            rate=self._clock.rate,
            regular=self._clock.regular,
            time_base=self._clock.time_base,
            pixel_aspect=1 / aspect if _quarter_turns(first) % 2 else aspect,
            rotation=_quarter_turns(first) * 90,
            has_audio=has_audio,
        )

    def __iter__(self) -> Iterator[tuple[np.ndarray, Fraction]]:
        """Frames (H, W, 3) with their strictly increasing times; holds one frame."""
        if self._is_picture:
            yield read_picture(self.path), Fraction(0)
            return
        expected = self._packets.stamps if self._packets.indexed and not self.tolerant else []
        last, place = None, -1
        for place, frame in enumerate(self._decode()):
            if expected and expected[place : place + 1] != [frame.pts]:  # some decoders drop pictures without a word
                raise self._damaged(f"frame {place} cannot be decoded")
            time = None if frame.pts is None else self._clock.time(frame.pts)
            if last is not None and (time is None or time <= last):  # no stamp, or the clock started over
                time = last + 1 / self.info.rate
            last = Fraction(0) if time is None else time
            yield self._rgb(frame, place), last
        if place + 1 < len(expected):
            raise self._damaged(f"frame {place + 1} cannot be decoded")

    def chunks(self, n: int) -> Iterator[tuple[np.ndarray, list[Fraction]]]:
        """Consecutive runs of at most n >= 1 frames, (T, H, W, 3), with their times; holds one run."""
        if n < 1:
            raise ValueError(f"a chunk holds at least one frame, not {n}")
        shape_THWC = (n, self.info.height, self.info.width, 3)
        frames_THWC, times = np.empty(shape_THWC, np.uint8), []
        for frame_HWC, time in self:
            frames_THWC[len(times)] = frame_HWC
            times.append(time)
            if len(times) == n:
                yield frames_THWC, times
                frames_THWC, times = np.empty(shape_THWC, np.uint8), []
        if times:
            yield frames_THWC[: len(times)], times

    def sample(self, indices: Sequence[int]) -> Sample:
        """The frames of these indices, in any order, repeats welcome. IndexError outside 0 <= index < frames."""
        indices = [int(index) for index in indices]
        if not indices or min(indices) < 0 or max(indices) >= self.info.frames:
            raise IndexError(f"{self.path}: {indices} must name frames 0 to {self.info.frames - 1}")
        if self._is_picture:
            return Sample(np.stack([read_picture(self.path)] * len(indices)), [Fraction(0)] * len(indices), "pillow")
        stamps = self._packets.stamps
        times = [self._clock.time(stamps[i]) if stamps else i / self.info.rate for i in indices]
        frames_THWC, reason = None, self._doubt()
        if not reason:
            frames_THWC, reason = self._sample_decord(indices)
        if reason:
            return Sample(self._sample_pyav(indices), times, "pyav", reason)
        return Sample(frames_THWC, times, "decord")

    def _doubt(self) -> str:
        """Why decord would silently return other frames or colours than the file holds, else ""."""
        packets = self._packets
        doubts = {
            "tolerant reading": self.tolerant,
            "pictures cannot be counted by packets": not packets.indexed,
            "missing or repeated time stamps": not packets.stamps,
            "edit list": packets.edited,
            "open GOP": packets.leading,
            "more than 8 bits": self._is_deep,  # decord 0.6.0 is off by up to 160 of 255 at coloured edges
            "untagged HD colours": self._guesses_matrix,
        }
        return next((reason for reason, holds in doubts.items() if holds), "")

    def _sample_decord(self, indices: list[int]) -> tuple[np.ndarray | None, str]:
        """Frames, or None and why decord is not believed.

        decord can abort the process on a damaged header and its readers hang across a fork: it is given only files
        that PyAV has read to the end, and its reader lives no longer than this call.
        """
        import decord

        try:
            video = decord.VideoReader(str(self.path), num_threads=1)
            if len(video) != self.info.frames:
                return None, f"decord counts {len(video)} frames instead of {self.info.frames}"
            times = video.get_frame_timestamp(range(len(video)))[:, 0]
            stamps = np.array(self._packets.stamps) - self._packets.stamps[0]
            if np.abs(times - times[0] - stamps * float(self._clock.tick)).max() > 0.25 / float(self.info.rate):
                return None, "decord times the frames differently"
            first_HWC = video[0].asnumpy()
            if first_HWC.shape[:2] != (self.info.height, self.info.width):
                return None, "decord reads another stream"
            if np.abs(_blocks(first_HWC) - self._first_blocks).mean() > 2:
                return None, "decord shows another first frame"
            return video.get_batch(indices).asnumpy(), ""
        except (decord.DECORDError, RuntimeError):  # AV1, for one, is newer than decord 0.6.0
            return None, "decord cannot read it"

    def _sample_pyav(self, indices: list[int]) -> np.ndarray:
        stamps = self._packets.stamps
        keys = {stamps[i] if stamps else i: i for i in indices}
        start = self._packets.seek_stamp(min(keys)) if stamps else None
        found = self._collect(keys, start)
        if start is not None and len(found) < len(keys):  # the container cannot seek
            found = self._collect(keys, None)
        if len(found) < len(keys):
            raise self._damaged(f"{len(keys) - len(found)} of the frames asked for cannot be decoded")
        return np.stack([found[i] for i in indices])

    def _collect(self, keys: dict[int, int], start: int | None) -> dict[int, np.ndarray]:
        """The frames with these stamps (or places, where the file has no stamps) in one pass: {index: (H, W, 3)}."""
        found = {}
        for place, frame in enumerate(self._decode(start)):
            if start is not None and place == 0 and (frame.pts is None or frame.pts > start):
                break  # the seek went too far
            key = frame.pts if self._packets.stamps else place
            if key in keys:
                found[keys[key]] = self._rgb(frame, keys[key])
                if len(found) == len(keys):
                    break
        return found

    def _decode(self, start: int | None = None) -> Iterator[av.VideoFrame]:
        """Decoded pictures in order of presentation, from the keyframe with that stamp or from the beginning."""
        self.skipped = decoded = 0
        with open_video(self.path) as container:
            if start is not None:
                container.seek(start, stream=container.streams[self._stream])
            packets = container.demux(container.streams[self._stream])
            while True:
                try:
                    packet = next(packets, None)
                    if packet is None:
                        return
                    frames = packet.decode()
                    if any(frame.is_corrupt for frame in frames) and not self.tolerant:
                        raise self._damaged(f"frame {decoded} is incomplete")
                except av.FFmpegError as error:
                    if not self.tolerant:
                        raise self._damaged(f"frame {decoded}: {error.strerror}") from None
                    self.skipped += 1
                    continue
                decoded += len(frames)
                yield from frames

    def _rgb(self, frame: av.VideoFrame, index: int) -> np.ndarray:
        frame_HWC = _to_rgb(frame)
        height, width, _ = frame_HWC.shape
        if (height, width) != (self.info.height, self.info.width):
            sizes = f"from {self.info.width}x{self.info.height} to {width}x{height}"
            raise InputError(f"{self.path}: the size changes {sizes} at frame {index}; cut the file there")
        return frame_HWC

    def _damaged(self, what: str) -> InputError:
        return InputError(
            f"{self.path}: is damaged ({what}); get a whole copy, or read it with tolerant=True (--tolerant)"
        )


def _to_rgb(frame: av.VideoFrame) -> np.ndarray:
    """Upright (H, W, 3) uint8, by the matrix and range the frame is tagged with."""
    colours = {"src_colorspace": _guessed_matrix(frame), "dst_color_range": ColorRange.JPEG}
    frame_HWC = frame.to_ndarray(format="rgb24", interpolation=SMOOTH, **colours)
    return np.ascontiguousarray(np.rot90(frame_HWC, _quarter_turns(frame)))


def _guessed_matrix(frame: av.VideoFrame) -> Colorspace | None:
    """BT.709 for untagged HD, as players have it; None leaves FFmpeg's choice: the tag, or else BT.601."""
    is_hd = frame.width >= 1280 or frame.height > 576
    return Colorspace.ITU709 if is_hd and frame.colorspace == UNTAGGED else None


def _quarter_turns(frame: av.VideoFrame) -> int:
    """Counterclockwise; other angles are left to the player."""
    return frame.rotation // 90 if frame.rotation % 90 == 0 else 0


def _blocks(frame_HWC: np.ndarray) -> np.ndarray:
    """Means over blocks of up to 8x8 pixels, in which the readers' chroma filters agree."""
    height, width = (size // 8 * 8 or size for size in frame_HWC.shape[:2])
    b, d = min(8, height), min(8, width)
    return reduce(frame_HWC[:height, :width].astype(np.float32), "(h b) (w d) c -> h w c", "mean", b=b, d=d)
