"""Reading video and pictures: every frame once, in order, at its own time.

One interface over two libraries. Iterating a `VideoReader` goes through PyAV from the first frame to the last; its
`sample` picks frames out through decord where decord can be trusted with the file, else through PyAV, and says which
one it was. A picture is a clip of one frame, a folder of pictures a clip of its frames in natural order.

Frames are uint8 RGB, (H, W, 3) or (T, H, W, 3), upright. Our choice: deeper video is rounded to 8 bits (an error of
59 dB), as decord and every 8-bit output would; HDR keeps its curve and looks dull, for it is not tone-mapped. Times are
exact `Fraction`s of a second.
"""

import os
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorRange
from einops import reduce

from seedvr2_lab.console import InputError
from seedvr2_lab.media.container import choose_stream, clock, open_video, require_file, scan
from seedvr2_lab.media.pictures import PICTURES, color_profile, common_size, list_frames, read_picture
from seedvr2_lab.media.pixels import UNTAGGED, guessed_matrix, has_transparency, quarter_turns, to_rgb


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
    primaries: int = UNTAGGED  # FFmpeg's number for what red, green and blue are
    transfer: int = UNTAGGED  # likewise for the curve from values to light
    full_range: bool = False  # luma from 0 to 255 instead of 16 to 235
    profile: bytes | None = None  # ICC profile of a picture


@dataclass(frozen=True)
class Sample:
    """Frames picked by index: who read them ("decord", "pyav", "pillow"), and if not decord, why not."""

    frames_THWC: np.ndarray
    times: list[Fraction]
    reader: str
    reason: str = ""


class VideoReader:
    """A video or picture file or a folder of frames, checked when the reader is made.

    Nothing stays open between calls, so a reader can be iterated twice and inherited by forked workers.

    Args:
        path: any video that FFmpeg decodes, a picture (`PICTURES`), or a folder of pictures of one size.
        stream: container index of the video stream; by default the one with the largest pictures, cover art aside.
        tolerant: skip what is damaged (`skipped` counts the packets or pictures of the last pass) instead of refusing.
        rate: frames per second of a folder of frames; a video brings its own.

    Raises:
        InputError: no such file, no video, no picture in it, truncated; while reading also damaged or changing size.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        stream: int | None = None,
        tolerant: bool = False,
        rate: Fraction | int = 25,
    ):
        self.path, self.tolerant, self.skipped = Path(path), tolerant, 0
        self._pictures = self._list_pictures()
        if self._pictures:
            size, rate = common_size(self._pictures, tolerant), Fraction(rate)
            profile = color_profile(self._pictures[0]) if len(self._pictures) == 1 else None
            self.info = VideoInfo(self.path, 0, len(self._pictures), *size, rate, True, 1 / rate, profile=profile)
            return
        with open_video(self.path) as container:
            video = choose_stream(self.path, container, stream)
            self._stream, has_audio = video.index, bool(container.streams.audio)
            if video.metadata.get("alpha_mode") == "1":  # beside the pictures, where FFmpeg's decoder passes over it
                raise self._transparent()
            packets = scan(self.path, container, video)
            if packets.damage and not tolerant:
                raise self._damaged(packets.damage)
            first = next(self._decode(), None)  # only a decoded picture tells its true size, rotation and colours
            if first is None:
                raise InputError(f"{self.path}: holds no picture that can be decoded; check how it was made")
            self._packets = packets.starting_at(first.pts)
            self._clock = clock(video, self._packets.stamps)
            aspect = video.sample_aspect_ratio or Fraction(1)
        if has_transparency(first):
            raise self._transparent()
        first_HWC = to_rgb(first)
        self._first_blocks = _blocks(first_HWC)
        self._is_deep, self._guesses_matrix = first.format.components[0].bits > 8, guessed_matrix(first) is not None
        self.info = VideoInfo(
            path=self.path,
            stream=self._stream,
            frames=self._packets.count,
            height=first_HWC.shape[0],
            width=first_HWC.shape[1],
            rate=self._clock.rate,
            regular=self._clock.regular,
            time_base=self._clock.time_base,
            pixel_aspect=1 / aspect if quarter_turns(first) % 2 else aspect,
            rotation=quarter_turns(first) * 90,
            has_audio=has_audio,
            primaries=int(first.color_primaries),
            transfer=int(first.color_trc),
            full_range=first.color_range == ColorRange.JPEG,
        )

    def __iter__(self) -> Iterator[tuple[np.ndarray, Fraction]]:
        """Frames (H, W, 3) with their strictly increasing times; holds one frame."""
        return self.frames()

    def frames(self, first: int = 0, stop: int | None = None) -> Iterator[tuple[np.ndarray, Fraction]]:
        """Those from place `first` to before `stop`. Frames in front are decoded as well, as decoders need them."""
        if self._pictures:
            yield from self._read_pictures(first, stop)
            return
        expected = self._packets.stamps if self._packets.indexed and not self.tolerant else []
        last, place = None, -1
        for place, frame in enumerate(self._decode()):
            if place == stop:
                return
            if expected and expected[place : place + 1] != [frame.pts]:  # some decoders drop pictures without a word
                raise self._damaged(f"frame {place} cannot be decoded")
            time = None if frame.pts is None else self._clock.time(frame.pts)
            if last is not None and (time is None or time <= last):  # no stamp, or the clock started over
                time = last + 1 / self.info.rate
            last = Fraction(0) if time is None else time
            if place >= first:
                if has_transparency(frame):
                    raise self._transparent()
                yield self._checked(to_rgb(frame), place), last
        if place + 1 < len(expected):
            raise self._damaged(f"frame {place + 1} cannot be decoded")

    def time(self, place: int) -> Fraction:
        """When the frame at that place is shown."""
        stamps = [] if self._pictures else self._packets.stamps
        return self._clock.time(stamps[place]) if stamps else place / self.info.rate

    def places(self, start: float, end: float | None) -> range:
        """The places of the frames that are shown from `start` to before `end`, seconds after the first frame."""
        stamps, rate = ([] if self._pictures else self._packets.stamps), self.info.rate

        def before(seconds: float) -> int:
            exact = Fraction(str(seconds))  # 0.2 is meant, not the nearest binary number
            if not stamps:
                return min(self.info.frames, max(0, ceil(exact * rate)))
            return bisect_left(stamps, self._clock.origin + exact, key=self._clock.time)

        return range(before(start), self.info.frames if end is None else before(end))

    def chunks(self, n: int) -> Iterator[tuple[np.ndarray, list[Fraction]]]:
        """Consecutive runs of at most n >= 1 frames, (T, H, W, 3), with their times; holds one run."""
        if n < 1:
            raise ValueError(f"a chunk holds at least one frame, not {n}")
        n = min(n, self.info.frames)
        frames_THWC, times = None, []
        for frame_HWC, time in self:
            if frames_THWC is None:
                frames_THWC = np.empty((n, *frame_HWC.shape), np.uint8)
            frames_THWC[len(times)] = frame_HWC
            times.append(time)
            if len(times) == n:
                yield frames_THWC, times
                frames_THWC, times = None, []
        if times:
            yield frames_THWC[: len(times)], times

    def sample(self, indices: Sequence[int]) -> Sample:
        """The frames of these indices, in any order, repeats welcome. IndexError outside 0 <= index < frames."""
        indices = [int(index) for index in indices]
        if not indices or min(indices) < 0 or max(indices) >= self.info.frames:
            raise IndexError(f"{self.path}: {indices} must name frames 0 to {self.info.frames - 1}")
        if self._pictures:
            frames_THWC = np.stack([self._checked(read_picture(self._pictures[i]), i) for i in indices])
            return Sample(frames_THWC, [self.time(i) for i in indices], "pillow")
        times = [self.time(i) for i in indices]
        frames_THWC, reason = None, self._doubt()
        if not reason:
            frames_THWC, reason = self._sample_decord(indices)
        if reason:
            return Sample(self._sample_pyav(indices), times, "pyav", reason)
        return Sample(frames_THWC, times, "decord")

    def _doubt(self) -> str:
        """Why decord would return other frames or colours than the file holds without a word, or die; else ""."""
        packets = self._packets
        doubts = {
            "tolerant reading": self.tolerant,
            "pictures cannot be counted by packets": not packets.indexed,
            "missing or repeated time stamps": not packets.stamps,
            "edit list": packets.edited,
            "another count in the header": packets.announced not in (0, packets.count),  # decord allocates that many
            "open GOP": packets.leading,
            "more than 8 bits": self._is_deep,  # decord 0.6.0 is off by up to 160 of 255 at coloured edges
            "untagged HD colours": self._guesses_matrix,
        }
        return next((reason for reason, holds in doubts.items() if holds), "")

    def _sample_decord(self, indices: list[int]) -> tuple[np.ndarray | None, str]:
        """Frames, or None and why decord is not believed.

        decord can abort the process on a damaged header and its readers hang across a fork: it is given only files
        that PyAV has read to the end and found as the header says, and its reader lives no longer than this call.
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
                found[keys[key]] = self._checked(to_rgb(frame), keys[key])
                if len(found) == len(keys):
                    break
        return found

    def _list_pictures(self) -> list[Path]:
        if not self.path.is_dir():
            require_file(self.path)
            return [self.path] if self.path.suffix.lower() in PICTURES else []
        if not (pictures := list_frames(self.path)):
            raise InputError(f"{self.path}: no picture lies in this folder; name a folder of frames, or one video")
        return pictures

    def _read_pictures(self, first: int, stop: int | None) -> Iterator[tuple[np.ndarray, Fraction]]:
        self.skipped = 0
        for i, picture in list(enumerate(self._pictures))[first:stop]:
            try:
                frame_HWC = read_picture(picture)
            except InputError:
                if not self.tolerant:
                    raise
                self.skipped += 1
                continue
            yield self._checked(frame_HWC, i), i / self.info.rate

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

    def _checked(self, frame_HWC: np.ndarray, index: int) -> np.ndarray:
        height, width, _ = frame_HWC.shape
        if (height, width) != (self.info.height, self.info.width):
            sizes = f"from {self.info.width}x{self.info.height} to {width}x{height}"
            raise InputError(f"{self.path}: the size changes {sizes} at frame {index}; cut it there")
        return frame_HWC

    def _transparent(self) -> InputError:
        return InputError(f"{self.path}: has an alpha channel; flatten it onto a background first")

    def _damaged(self, what: str) -> InputError:
        return InputError(
            f"{self.path}: is damaged ({what}); get a whole copy, or read it with tolerant=True (--tolerant)"
        )


def _blocks(frame_HWC: np.ndarray) -> np.ndarray:
    """Means over blocks of up to 8x8 pixels, in which the readers' chroma filters agree."""
    height, width = (size // 8 * 8 or size for size in frame_HWC.shape[:2])
    b, d = min(8, height), min(8, width)
    return reduce(frame_HWC[:height, :width].astype(np.float32), "(h b) (w d) c -> h w c", "mean", b=b, d=d)
