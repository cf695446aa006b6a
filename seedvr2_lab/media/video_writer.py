"""Writing video and pictures: every frame at its own time, under its final name only when complete."""

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

from seedvr2_lab.console import InputError
from seedvr2_lab.media.container import open_video
from seedvr2_lab.media.pictures import PICTURES, save_picture
from seedvr2_lab.media.pixels import UNTAGGED, rgb_converter
from seedvr2_lab.media.video import VideoInfo

VIDEOS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}  # suffix: container
CODECS = {  # encoder and its options; luma of real footage comes back at 44 to 51 dB, SSIM 0.994 or more
    # x264's macroblock tree reads unset memory at some widths: the same frames gave other bytes every time.
    "h264": ("libx264", {"crf": "15", "mbtree": "0"}),
    "h265": ("libx265", {"crf": "14", "x265-params": "log-level=error"}),
    "vp9": ("libvpx-vp9", {"crf": "15", "b": "0", "row-mt": "1"}),
    "lossless": ("libx264rgb", {"qp": "0"}),
}
H265_SIDE = 64  # pixels; x265 corrupts memory with less
RGB_MATRIX = 0  # FFmpeg's number for "no matrix: the planes are red, green and blue"


class VideoWriter:
    """Context manager that writes a video, a picture (by its suffix) or a folder of frames (a name without suffix).

    Until the block ends well the file has a temporary name beside its own; after an exception nothing is left of it.
    A folder holds the frames as 000000.png, 000001.png and so on, exactly; it has no place for times and sound.
    Frames of even size are coded as BT.709 4:2:0, which plays everywhere. H.264 and H.265 have no 4:2:0 of odd width
    or height: such frames are coded as 4:4:4, exact in size but unknown to some hardware players (VP9 keeps 4:2:0).
    "lossless" is exact RGB.

    Args:
        path: ends in one of `VIDEOS` or `PICTURES`, or is a new or empty folder.
        height, width: of every frame.
        rate: frames per second; by default that of `like`.
        like: info of the source: its clock, pixel aspect, range, primaries and transfer curve (the ICC profile of a
            picture) are kept, and its file is not overwritten.
        audio_from: file whose audio streams are copied packet by packet.
        audio_span: the stretch of its time that is copied, in seconds; it begins at 0 in the copy. None: all of it.
        codec: a key of `CODECS`.
        crf: the encoder's own quality scale, lower is better; the default leaves no visible loss.
        workplace: folder on the same disk where the unfinished file lies, by default that of `path`.

    Raises:
        InputError: on entering, folder, suffix, codec or audio cannot be; on leaving, no frame was written.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        height: int,
        width: int,
        rate: Fraction | int | None = None,
        *,
        like: VideoInfo | None = None,
        audio_from: str | os.PathLike | None = None,
        codec: str = "h264",
        crf: int | None = None,
        audio_span: tuple[Fraction, Fraction] | None = None,
        workplace: Path | None = None,
    ):
        if rate is None and like is None:
            raise ValueError("a video needs a rate, or a source to be like")
        self.path, self.height, self.width = Path(path), height, width
        self.rate = Fraction(like.rate if rate is None else rate)
        # The encoder's clock must resolve every stamp, or those of a variable rate collide.
        self._tick = like.time_base if like and rate is None else 1 / self.rate
        self._aspect = like.pixel_aspect if like else Fraction(1)
        self._like = like
        self._audio_from = Path(audio_from) if audio_from else None
        self._audio_span = audio_span
        self._codec, self._crf = codec, crf
        temporary = f".{self.path.stem}.{os.getpid()}.partial{self.path.suffix}"
        self._temporary = (workplace or self.path.parent) / temporary
        self._is_picture, self._is_folder = self.path.suffix.lower() in PICTURES, not self.path.suffix
        self._sources = [source for source in (like and like.path, self._audio_from) if source]
        self._count, self._last_stamp, self._container = 0, None, None

    def __enter__(self) -> "VideoWriter":
        self.check()
        with self._discard_on_error():
            if self._is_picture:
                self._temporary.touch()  # a folder that takes no file is known before hours of work
            elif self._is_folder:
                self._temporary.mkdir()
            else:
                self._open()
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if error is not None:
            self._discard()
            return
        with self._discard_on_error():
            if not self._count:
                raise InputError(f"{self.path}: not written, for no frame came; check the source")
            if self._container:
                self._encode(None)
                self._copy_audio()
                self._container.close()
            if self._is_folder and self.path.exists():
                self.path.rmdir()  # it was empty; Windows does not replace it
            if not self._is_folder:
                with open(self._temporary, "rb+") as file:
                    os.fsync(file.fileno())  # or a power failure could leave the name without the content
            self._temporary.replace(self.path)

    def write(self, frames: np.ndarray, times: Sequence[Fraction] | None = None) -> None:
        """Append uint8 frames (H, W, 3) or (T, H, W, 3), shown at strictly increasing times, by default i / rate."""
        frames_THWC = frames[None] if frames.ndim == 3 else frames
        expected = (self.height, self.width, 3)
        if frames_THWC.dtype != np.uint8 or frames_THWC.shape[1:] != expected:
            raise ValueError(f"expected uint8 frames of {expected}, not {frames.dtype} {frames.shape}")
        with self._discard_on_error():
            for i, frame_HWC in enumerate(frames_THWC):
                time = self._count / self.rate if times is None else times[i]
                if self._container:
                    self._write_frame(frame_HWC, time)
                elif self._is_folder:
                    save_picture(frame_HWC, self._temporary / f"{self._count:06d}.png")
                elif self._count:
                    raise InputError(f"{self.path}: a picture holds one frame; name a video, for example .mp4")
                else:
                    save_picture(frame_HWC, self._temporary, self._like and self._like.profile)
                self._count += 1

    def check(self) -> None:
        """InputError for what can be seen to be impossible before anything is opened."""
        if self.path.suffix.lower() not in ("", *VIDEOS, *PICTURES):
            known = ", ".join((*VIDEOS, *PICTURES))
            raise InputError(f"{self.path}: unknown suffix; end it in {known}, or in none for a folder of frames")
        if self._codec not in CODECS:
            raise InputError(f"codec {self._codec!r} is unknown; choose from {', '.join(CODECS)}")
        if self._codec == "lossless" and self._crf is not None:
            raise InputError(f"crf {self._crf} would make codec 'lossless' lossy; leave one of them out")
        if self._codec == "h265" and min(self.height, self.width) < H265_SIDE:
            raise InputError(f"{self.path}: h265 takes at least {H265_SIDE} pixels a side; choose another codec")
        if not self.path.parent.is_dir():
            raise InputError(f"{self.path}: {self.path.parent} is not a folder; create it first")
        if self.path.is_file() and self._is_folder:
            raise InputError(f"{self.path}: is a file; name a new folder for the frames, or a video such as .mp4")
        if self.path.is_dir() and (not self._is_folder or any(self.path.iterdir())):
            raise InputError(f"{self.path}: is a folder in use; name a file in it, or a new folder for frames")
        if self.path.exists() and any(self.path.samefile(source) for source in self._sources):
            raise InputError(f"{self.path}: is the source itself; choose another name")

    def _open(self) -> None:
        encoder, options = CODECS[self._codec]
        if self._crf is not None:
            options = options | {"crf": str(self._crf)}
        layout = VIDEOS[self.path.suffix.lower()]
        playable_while_loading = {"movflags": "+faststart"} if layout in ("mp4", "mov") else {}
        self._container = av.open(f"file:{self._temporary}", "w", format=layout, options=playable_while_loading)
        options = options | {"chroma_sample_location": "left"}  # for containers that note it; codecs imply it
        try:
            self._stream = self._container.add_stream(encoder, rate=self.rate, options=options)
        except ValueError:
            remedy = "codec 'vp9', or end the name in .mkv"
            raise InputError(f"{self.path}: {layout} cannot hold {self._codec}; choose {remedy}") from None
        odd = self.height % 2 or self.width % 2
        self._stream.height, self._stream.width = self.height, self.width
        coder = self._stream.codec_context
        coder.time_base = self._tick
        coder.sample_aspect_ratio = self._aspect
        full_range = self._like is not None and self._like.full_range
        coder.color_primaries, coder.color_trc = self._color_tags()
        if self._codec == "lossless":
            coder.pix_fmt, coder.colorspace, coder.color_range = "rgb24", RGB_MATRIX, ColorRange.JPEG
        else:
            coder.pix_fmt = "yuv444p" if odd and self._codec != "vp9" else "yuv420p"
            coder.colorspace, coder.color_range = Colorspace.ITU709, ColorRange.JPEG if full_range else ColorRange.MPEG
        if self._codec == "h265" and layout in ("mp4", "mov"):
            coder.codec_tag = "hvc1"  # the one tag that Apple's players accept
        self._convert = rgb_converter(self.height, self.width, coder.pix_fmt, full_range)
        self._audio_packets = self._read_audio()
        self._next_audio = next(self._audio_packets, None)
        self._container.start_encoding()

    def _color_tags(self) -> tuple[int, int]:
        """Primaries and curve: those of the source, whose values pass through unchanged; BT.709 if it names none."""
        tags = (self._like.primaries, self._like.transfer) if self._like else (UNTAGGED, UNTAGGED)
        usual = ColorPrimaries.BT709, ColorTrc.BT709
        return tuple(other if tag in (0, UNTAGGED) else tag for tag, other in zip(tags, usual, strict=True))

    def _write_frame(self, frame_HWC: np.ndarray, time: Fraction) -> None:
        stamp = round(time / self._tick)
        if self._last_stamp is not None and stamp <= self._last_stamp:
            raise ValueError(f"frame {self._count} at {time} s does not come after the one before it")
        self._last_stamp = stamp
        frame = self._convert(np.ascontiguousarray(frame_HWC))
        frame.pts, frame.time_base = stamp, self._tick
        self._encode(frame)

    def _encode(self, frame: av.VideoFrame | None) -> None:
        """Mux what the encoder gives for this frame, or all it still holds, each packet behind the sound before it."""
        for packet in self._stream.encode(frame):
            if frame is None and self._count <= 2:  # x265 leaves it uninitialised; two pictures are coded in order
                packet.dts = packet.pts
            self._copy_audio(until=packet.dts * packet.time_base)
            self._container.mux(packet)

    def _read_audio(self) -> Iterator[tuple[Fraction, av.Packet]]:
        """Give the output a copy of every audio stream of the source, then yield their packets with their times."""
        if self._audio_from is None:
            return
        with open_video(self._audio_from) as source:
            copies = {}
            for stream in source.streams.audio:
                try:
                    copies[stream.index] = self._container.add_stream_from_template(stream)
                except ValueError:
                    name = stream.codec_context.name
                    raise InputError(
                        f"{self.path}: this container cannot hold the source's {name} audio; end the name in .mkv"
                    ) from None
            try:
                for packet in source.demux(source.streams.audio) if copies else ():
                    if packet.dts is None:  # the demuxer's mark of the end
                        continue
                    time = packet.dts * packet.time_base
                    if self._audio_span:
                        start, end = self._audio_span
                        if not start <= time < end:
                            continue
                        shift = round(start / packet.time_base)
                        packet.dts, packet.pts = packet.dts - shift, packet.pts - shift
                        time -= start
                    if time < 0 and self._container.format.name not in ("mp4", "mov"):
                        continue  # the encoder's run-in, never heard; Matroska would shift all streams to keep it
                    packet.stream = copies[packet.stream_index]
                    yield time, packet
            except av.FFmpegError as error:
                raise InputError(
                    f"{self._audio_from}: its sound cannot be read ({error.strerror}); leave the audio out"
                ) from None

    def _copy_audio(self, until: Fraction | None = None) -> None:
        while self._next_audio and (until is None or self._next_audio[0] <= until):
            self._container.mux(self._next_audio[1])
            self._next_audio = next(self._audio_packets, None)

    @contextlib.contextmanager
    def _discard_on_error(self) -> Iterator[None]:
        try:
            yield
        except (av.FFmpegError, OSError) as error:
            self._discard()
            reason = error.strerror or error
            raise InputError(f"{self.path}: cannot be written ({reason}); choose another folder or format") from None
        except BaseException:
            self._discard()
            raise

    def _discard(self) -> None:
        if self._container:
            with contextlib.suppress(av.FFmpegError, OSError, ValueError):
                self._container.close()
        if self._is_folder:
            shutil.rmtree(self._temporary, ignore_errors=True)
        else:
            self._temporary.unlink(missing_ok=True)
