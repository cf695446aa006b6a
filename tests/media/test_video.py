"""Every frame once, in order, at its own time, in its own colours; refusals in one line that leave nothing behind."""

import struct
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from av.video.reformatter import ColorRange, Colorspace
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from seedvr2_lab.console import InputError
from seedvr2_lab.media.video import VideoReader
from seedvr2_lab.media.video_writer import CODECS, VideoWriter

CLIPS = Path(__file__).parents[2] / "../shared/clips"
OPEN_GOP = {"x264-params": "open-gop=1:bframes=3:b-adapt=0:scenecut=0:keyint=12:min-keyint=12"}
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
    options: dict | None = None,
) -> Path:
    """A clip written without the package's own writer."""
    tick = tick or 1 / rate
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *size, pixels
        coder = stream.codec_context
        coder.time_base, coder.gop_size = tick, 12
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


def read(path: Path, **options) -> tuple[VideoReader, list[np.ndarray], list[Fraction]]:
    reader = VideoReader(path, **options)
    pairs = list(reader)
    return reader, [frame for frame, _ in pairs], [time for _, time in pairs]


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("clips") / "clip.mp4")


KINDS = {
    "h264.mp4": ({}, "decord"),
    "ntsc.mkv": ({"rate": Fraction(30000, 1001)}, "decord"),
    "odd.webm": ({"codec": "libvpx-vp9", "size": (97, 129)}, "decord"),
    "variable.mp4": ({"tick": Fraction(1, 90000), "stamps": VFR}, "decord"),
    "sound.mp4": ({"audio": True}, "decord"),
    "late.mp4": ({"start": 2, "audio": True}, "decord"),
    "rgb.mp4": ({"codec": "libx264rgb", "pixels": "rgb24", "options": {"qp": "0"}, "tagged": False}, "decord"),
    "open.mp4": ({"options": OPEN_GOP}, "open GOP"),
    "deep.mp4": ({"pixels": "yuv420p10le"}, "more than 8 bits"),
    "untagged.mp4": ({"tagged": False, "size": (720, 1280), "frames": 8}, "untagged HD colours"),
    "mpeg4.avi": ({"codec": "mpeg4", "options": {"bf": "2"}}, "pictures cannot be counted by packets"),
    "program.ts": ({"audio": True}, "pictures cannot be counted by packets"),
    "raw.h264": ({}, "pictures cannot be counted by packets"),
}


@pytest.mark.parametrize("name", KINDS)
def test_reads_every_frame_in_order_and_samples_the_same_ones(tmp_path, name):
    options, expected = KINDS[name]
    path = make(tmp_path / name, **options)
    reader, frames, times = read(path)
    count, info = options.get("frames", 40), reader.info
    assert numbers(frames) == list(range(count)) and info.frames == count
    assert (info.height, info.width) == options.get("size", (96, 128))
    tick = options.get("tick") or 1 / info.rate
    stamps = options.get("stamps") or range(count)
    assert [t - times[0] for t in times] == [(s - stamps[0]) * tick for s in stamps]
    assert all(time % info.time_base == 0 for time in times)
    assert info.regular == ("stamps" not in options)
    if info.regular:
        assert info.rate == options.get("rate", 25)
    indices = np.random.default_rng(1).integers(0, count, 12)
    sample = reader.sample(indices)
    assert numbers(sample.frames_THWC) == list(indices)
    assert sample.times == [times[i] for i in indices]
    assert (sample.reader, sample.reason) == (("decord", "") if expected == "decord" else ("pyav", expected))


def test_late_start_is_kept(tmp_path):
    assert read(make(tmp_path / "late.mp4", start=2))[2][0] == 2


def test_edit_list_shows_what_players_show(clip, tmp_path):
    """Five frames cut from the front and ten from the back without re-encoding; the header still counts forty."""
    data = clip.read_bytes()
    (start,) = struct.unpack_from(">i", data, data.index(b"elst") + 4 + 12)
    path = patch(clip, tmp_path / "cut.mp4", b"elst", 8, ">Ii", 1000, start + 5 * 512)
    reader, frames, times = read(path)
    assert numbers(frames) == list(range(5, 30)) and reader.info.frames == 25
    assert times == [Fraction(i, 25) for i in range(25)]
    sample = reader.sample([24, 0])
    assert numbers(sample.frames_THWC) == [29, 5] and sample.reason == "edit list"


def test_rotation_is_applied(clip, tmp_path):
    turned = patch(clip, tmp_path / "turned.mp4", b"tkhd", 40, ">4i", 0, 65536, 0, -65536)  # after version 0's fields
    reader, frames, _ = read(turned)
    upright = [np.rot90(frame, -1) for frame in read(clip)[1]]
    assert (reader.info.height, reader.info.width, reader.info.rotation) == (128, 96, -90)
    assert np.array_equal(frames, upright)
    sample = reader.sample([7])
    assert sample.reader == "decord" and np.abs(sample.frames_THWC[0].astype(int) - upright[7]).mean() < 3


def test_seeks_past_the_beginning(tmp_path):
    """PyAV's sampling does not decode a long file from its first frame: it starts near the frame asked for."""
    reader = VideoReader(make(tmp_path / "long.mp4", frames=200, options=OPEN_GOP))
    start = reader._packets.seek_stamp(reader._packets.stamps[180])
    assert start == reader._packets.stamps[168]
    for index in (0, 11, 12, 23, 24, 155, 156, 199):
        assert numbers(reader.sample([index]).frames_THWC) == [index]


@given(st.integers(1, 50))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_chunks_are_the_frames(clip, n):
    reader, frames, times = read(clip)
    chunks = list(reader.chunks(n))
    assert [len(part) for part, _ in chunks] == [min(n, 40 - k) for k in range(0, 40, n)]
    assert np.array_equal(np.concatenate([part for part, _ in chunks]), frames)
    assert [time for _, part in chunks for time in part] == times


def test_reader_crosses_a_fork_and_sampling_checks_its_indices(clip):
    from multiprocessing import get_context

    reader = VideoReader(clip)
    reader.sample([3])
    with get_context("fork").Pool(1) as pool:
        sample = pool.apply_async(reader.sample, ([9, 2],)).get(timeout=60)
    assert sample.reader == "decord" and numbers(sample.frames_THWC) == [9, 2]
    for indices in ([], [40], [-1]):
        with pytest.raises(IndexError):
            reader.sample(indices)


def test_largest_stream_or_the_named_one(tmp_path):
    path = tmp_path / "two.mkv"
    with av.open(str(path), "w") as container:
        sizes = [(96, 128), (120, 160)]
        streams = [container.add_stream("libx264", rate=25) for _ in sizes]
        for stream, (height, width) in zip(streams, sizes, strict=True):
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for i in range(10):
            for stream, size in zip(streams, sizes, strict=True):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(i, *size), format="rgb24")))
        for stream in streams:
            container.mux(stream.encode())
    largest, named = VideoReader(path), VideoReader(path, stream=0)
    assert (largest.info.stream, largest.info.height, largest.info.width) == (1, 120, 160)
    assert (named.info.stream, named.info.height, named.info.width) == (0, 96, 128)
    assert numbers(named.sample([4, 1]).frames_THWC) == [4, 1]
    with pytest.raises(InputError, match=r"choose from 0 \(128x96\), 1 \(160x120\)"):
        VideoReader(path, stream=7)


@pytest.mark.parametrize("with_video", [True, False])
def test_cover_art_is_not_the_video(tmp_path, with_video):
    path = tmp_path / "song.mp4"
    with av.open(str(path), "w") as container:
        if with_video:
            video = container.add_stream("libx264", rate=25)
            video.height, video.width, video.pix_fmt = 96, 128, "yuv420p"
        cover = container.add_stream("mjpeg", rate=25)
        cover.height, cover.width, cover.pix_fmt = 480, 640, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        container.mux(cover.encode(av.VideoFrame.from_ndarray(picture(0, 480, 640), format="rgb24")))
        container.mux(cover.encode())
        for i in range(5 if with_video else 0):
            container.mux(video.encode(av.VideoFrame.from_ndarray(picture(i), format="rgb24")))
        container.mux(video.encode() if with_video else [])
    if with_video:
        assert numbers(read(path)[1]) == list(range(5))
    else:
        with pytest.raises(InputError, match="no video stream"):
            VideoReader(path)


# --- Colours ---


def bt709(yuv: np.ndarray, is_full: bool, kr: float = 0.2126, kb: float = 0.0722) -> np.ndarray:
    """ITU-R BT.709 (or the given weights) from 8-bit Y'CbCr (..., 3) to R'G'B' in [0, 255]."""
    low, luma, chroma = (0, 255, 255) if is_full else (16, 219, 224)
    y, b, r = (yuv[..., 0] - low) / luma, (yuv[..., 1] - 128) / chroma, (yuv[..., 2] - 128) / chroma
    red, blue = y + 2 * (1 - kr) * r, y + 2 * (1 - kb) * b
    return np.clip(255 * np.stack([red, (y - kr * red - kb * blue) / (1 - kr - kb), blue], -1), 0, 255)


@pytest.mark.parametrize(
    ("matrix", "color_range", "size", "expected"),
    [
        (1, ColorRange.MPEG, (64, 64), {"is_full": False}),
        (1, ColorRange.JPEG, (64, 64), {"is_full": True}),
        (6, ColorRange.MPEG, (64, 64), {"is_full": False, "kr": 0.299, "kb": 0.114}),
        (2, ColorRange.MPEG, (64, 64), {"is_full": False, "kr": 0.299, "kb": 0.114}),  # untagged SD
        (2, ColorRange.MPEG, (720, 1280), {"is_full": False}),  # untagged HD
        (9, ColorRange.MPEG, (64, 64), {"is_full": False, "kr": 0.2627, "kb": 0.0593}),
    ],
)
def test_matrix_and_range_against_the_standards(tmp_path, matrix, color_range, size, expected):
    yuv = np.array([(16, 128, 128), (235, 128, 128), (100, 90, 160), (180, 150, 100), (70, 140, 120)])
    path = tmp_path / "flat.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"qp": "0"})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv444p"
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, color_range
        for values in yuv:
            planes = np.broadcast_to(values.astype(np.uint8)[:, None, None], (3, *size))
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(planes), format="yuv444p")
            frame.colorspace, frame.color_range = matrix, color_range
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    seen = np.array([frame[10, 10] for frame in read(path)[1]])
    assert np.abs(seen - bt709(yuv, **expected)).max() < 1


def psnr(a, b) -> float:
    with np.errstate(divide="ignore"):  # equal frames have no noise
        return 10 * np.log10(255**2 / np.mean((np.asarray(a, float) - np.asarray(b, float)) ** 2))


@pytest.mark.parametrize(
    ("name", "codec", "size", "least"),
    [
        ("a.mp4", "h264", (96, 128), 36),
        ("a.mp4", "h264", (97, 131), 42),  # 4:4:4
        ("a.mov", "h265", (96, 128), 36),
        ("a.webm", "vp9", (97, 131), 34),
        ("a.mkv", "lossless", (97, 131), np.inf),
        ("a.mp4", "lossless", (96, 128), np.inf),
    ],
)
def test_written_colours_and_sizes_come_back(tmp_path, name, codec, size, least):
    frames = np.stack([picture(i, *size) for i in range(9)])
    with VideoWriter(tmp_path / name, *size, rate=25, codec=codec) as writer:
        writer.write(frames)
    reader, seen, times = read(tmp_path / name)
    assert np.shape(seen) == frames.shape and numbers(seen) == list(range(9))
    assert times == [Fraction(i, 25) for i in range(9)] and reader.info.rate == 25
    assert psnr(seen, frames) >= least
    if np.isfinite(least):
        assert np.abs(np.mean(seen, (0, 1, 2)) - frames.mean((0, 1, 2))).max() < 0.6  # no tint
        with av.open(str(tmp_path / name)) as container:
            coder = container.streams.video[0].codec_context
            tags = (coder.color_primaries, coder.color_trc, coder.colorspace, coder.color_range)
        assert tags == (1, 1, 1, ColorRange.MPEG)


def test_default_quality_adds_no_visible_loss(tmp_path):
    """On a photograph: 4:2:0 alone costs more than H.264 at the default quality does."""
    from skimage.data import astronaut

    frames = np.stack([astronaut()[i : i + 256, i : i + 256] for i in range(6)])
    with VideoWriter(tmp_path / "a.mp4", 256, 256, rate=25) as writer:
        writer.write(frames)
    assert psnr(read(tmp_path / "a.mp4")[1], frames) > 37


# --- Writing ---


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("kind", ["ntsc.mkv", "variable.mp4", "sound.mp4", "late.mp4", "program.ts"])
def test_read_write_read_keeps_count_order_rate_times_and_sound(tmp_path, kind, suffix):
    source, target = make(tmp_path / kind, **KINDS[kind][0]), tmp_path / f"out{suffix}"
    reader = VideoReader(source)
    audio = source if reader.info.has_audio else None
    with VideoWriter(target, 96, 128, like=reader.info, audio_from=audio) as writer:
        for frames, times in reader.chunks(7):
            writer.write(frames, times)
    again, frames, times = read(target)
    assert numbers(frames) == list(range(40))
    rounding = Fraction(1, 1000) if suffix == ".mkv" and not reader.info.regular else 0  # Matroska's own tick
    assert all(abs(new - old) <= rounding for new, old in zip(times, read(source)[2], strict=True))
    assert again.info.rate == reader.info.rate or rounding
    if audio:
        kept = [p for p in sound(source) if p[0] >= 0 or suffix != ".mkv"]
        seen = sound(target)
        assert [data for _, data in seen] == [data for _, data in kept]
        assert max(abs(a - b) for (a, _), (b, _) in zip(seen, kept, strict=True)) <= Fraction(1, 1000)


def sound(path: Path) -> list[tuple[Fraction, bytes]]:
    """Times and contents of the audio packets; the frame headers that MPEG-TS adds are left out."""
    with av.open(str(path)) as container:
        packets = [(p.pts * p.time_base, bytes(p)) for p in container.demux(container.streams.audio[0]) if p.size]
    return [(time, data[7:] if data[:2] == b"\xff\xf1" else data) for time, data in packets]


def test_sound_lies_beside_the_picture(tmp_path):
    """Interleaved: no stretch of the file holds many seconds of one stream alone."""
    source = make(tmp_path / "in.mp4", frames=40, rate=Fraction(1), audio=True)
    reader = VideoReader(source)
    with VideoWriter(tmp_path / "out.mp4", 96, 128, like=reader.info, audio_from=source) as writer:
        for frames, times in reader.chunks(10):
            writer.write(frames, times)
    with av.open(str(tmp_path / "out.mp4")) as container:
        packets = sorted((p.pos, p.stream.type, p.dts * p.time_base) for p in container.demux() if p.size)
    newest = {"video": Fraction(0), "audio": Fraction(0)}
    for _, kind, time in packets:
        newest[kind] = time
        assert abs(newest["video"] - newest["audio"]) < 4


def test_pixel_aspect_is_kept(clip, tmp_path):
    wide = replace(VideoReader(clip).info, pixel_aspect=Fraction(16, 15))
    with VideoWriter(tmp_path / "wide.mp4", 96, 128, like=wide) as writer:
        writer.write(picture(0))
    info = VideoReader(tmp_path / "wide.mp4").info
    assert info.pixel_aspect == Fraction(16, 15)
    with VideoWriter(tmp_path / "again.mkv", 96, 128, like=info) as writer:
        writer.write(picture(0))
    assert VideoReader(tmp_path / "again.mkv").info.pixel_aspect == Fraction(16, 15)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tiff"])
def test_pictures_are_clips_of_one_frame(tmp_path, suffix):
    path = tmp_path / f"one{suffix}"
    with VideoWriter(path, 97, 131, rate=1) as writer:
        writer.write(picture(5, 97, 131))
    reader, (frame,), times = read(path)
    assert (reader.info.frames, times, list(tmp_path.iterdir())) == (1, [0], [path])
    assert psnr(frame, picture(5, 97, 131)) > 38 if suffix == ".jpg" else np.array_equal(frame, picture(5, 97, 131))
    assert np.array_equal(reader.sample([0, 0]).frames_THWC[1], frame)
    with (
        pytest.raises(InputError, match="one frame"),
        VideoWriter(tmp_path / f"two{suffix}", 97, 131, rate=1) as writer,
    ):
        writer.write(np.stack([frame, frame]))
    assert list(tmp_path.iterdir()) == [path]


def test_pictures_upright_grey_deep_and_with_alpha(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    Image.fromarray(picture(3)).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read(tmp_path / "turned.png")[1][0], np.rot90(picture(3), -1))
    grey = np.arange(96 * 128, dtype=np.uint16).reshape(96, 128) * 5
    Image.fromarray(grey).save(tmp_path / "deep.png")
    assert np.array_equal(read(tmp_path / "deep.png")[1][0], np.repeat((grey >> 8)[..., None], 3, -1))
    Image.fromarray(picture(3)).convert("RGBA").save(tmp_path / "alpha.png")
    with pytest.raises(InputError, match="alpha channel"):
        VideoReader(tmp_path / "alpha.png")


# --- Refusals ---


def refusal(error: pytest.ExceptionInfo, path: Path) -> str:
    """The message, after the checks that hold for all of them: one line, the input named, a remedy after the cause."""
    message = str(error.value)
    assert "\n" not in message and str(path) in message and ";" in message
    return message


def with_bytes(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def most_of(data: bytes) -> bytes:
    return data[: len(data) * 6 // 10]


def faststart(source: Path, target: Path) -> bytes:
    with av.open(str(source)) as old, av.open(str(target), "w", options={"movflags": "faststart"}) as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                new.mux(packet)
    return target.read_bytes()


def sound_only(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        add_tone(container, 1, 0)
    return path


def without_frames(path: Path) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        container.start_encoding()
    return path


BAD = {
    "missing": (lambda t, clip: t / "no.mp4", "no such file"),
    "folder": (lambda t, clip: t, "not a file"),
    "empty": (lambda t, clip: with_bytes(t / "a.mp4", b""), "empty"),
    "text": (lambda t, clip: with_bytes(t / "a.mp4", b"hello\n" * 99), "not a readable video"),
    "text as text": (lambda t, clip: with_bytes(t / "a.txt", b"hello\n" * 99), "text"),
    "text as picture": (lambda t, clip: with_bytes(t / "a.png", b"hello\n" * 99), "not a readable picture"),
    "sound": (lambda t, clip: sound_only(t / "a.mp4"), "no video stream"),
    "no frame": (lambda t, clip: without_frames(t / "a.mp4"), "no video stream"),
    "index cut off": (lambda t, clip: with_bytes(t / "a.mp4", most_of(clip.read_bytes())), "not a readable video"),
    "end cut off": (lambda t, clip: with_bytes(t / "b.mp4", most_of(faststart(clip, t / "a.mp4"))), "damaged"),
    "mkv cut off": (lambda t, clip: with_bytes(t / "b.mkv", most_of(make(t / "a.mkv").read_bytes())), "ends at"),
}


@pytest.mark.parametrize("kind", BAD)
def test_refuses_in_one_line(tmp_path, clip, kind):
    source, cause = BAD[kind]
    path = source(tmp_path, clip)
    with pytest.raises(InputError) as error:
        VideoReader(path)
    assert cause in refusal(error, path)


def test_damage_inside_is_named_or_tolerated(tmp_path, clip):
    data = bytearray(faststart(clip, tmp_path / "whole.mp4"))
    middle = len(data) * 6 // 10
    data[middle : middle + 400] = np.random.default_rng(1).integers(0, 256, 400, dtype=np.uint8).tobytes()
    path = with_bytes(tmp_path / "hurt.mp4", bytes(data))
    with pytest.raises(InputError, match=r"damaged \(frame \d+") as error:
        read(path)
    refusal(error, path)
    reader, frames, times = read(path, tolerant=True)
    assert reader.skipped > 0 and 25 <= len(frames) < 40
    assert numbers(frames[:12]) == list(range(12)) and times[:12] == [Fraction(i, 25) for i in range(12)]
    assert times == sorted(set(times)) and reader.sample([0]).reader == "pyav"


def test_silently_dropped_pictures_are_damage(tmp_path):
    """FFmpeg's HEVC decoder skips a packet it does not understand without raising."""
    path = make(tmp_path / "a.mp4", codec="libx265", options={"x265-params": "log-level=none"})
    with av.open(str(path)) as container:
        packets = [(p.pos, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    position, _ = packets[20]
    data[position + 4] = 0x7E  # an unknown type of unit
    with pytest.raises(InputError, match=r"damaged \(frame \d+ cannot be decoded"):
        read(with_bytes(tmp_path / "b.mp4", bytes(data)))


def test_changing_size_is_refused(tmp_path):
    small, large = make(tmp_path / "a.ts", frames=12), make(tmp_path / "b.ts", frames=12, size=(120, 160))
    path = with_bytes(tmp_path / "c.ts", small.read_bytes() + large.read_bytes())
    with pytest.raises(InputError, match="size changes from 128x96 to 160x120 at frame 12") as error:
        read(path, tolerant=True)
    refusal(error, path)


OUTPUTS = {
    "suffix": ("a.xyz", {}, "unknown suffix"),
    "no suffix": ("a", {}, "unknown suffix"),
    "missing folder": ("none/a.mp4", {}, "not a folder"),
    "file as folder": ("clip.mp4/a.mp4", {}, "not a folder"),
    "folder": ("folder.mp4", {}, "is a folder"),
    "container": ("a.webm", {}, "cannot hold h264"),
    "sound": ("a.webm", {"codec": "vp9", "audio_from": "clip.mp4"}, "aac audio"),
    "itself": ("clip.mp4", {"audio_from": "clip.mp4"}, "source itself"),
    "system": ("/proc/a.mp4", {}, "cannot be written"),
    "system picture": ("/proc/a.png", {}, "cannot be written"),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_refuses_outputs_before_any_work(tmp_path, kind):
    name, options, cause = OUTPUTS[kind]
    if name.startswith("/proc") and not Path("/proc").is_dir():
        pytest.skip("needs /proc")
    make(tmp_path / "clip.mp4", frames=5, audio=True)
    (tmp_path / "folder.mp4").mkdir()
    if "audio_from" in options:
        options = options | {"audio_from": tmp_path / options["audio_from"]}
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError) as error, VideoWriter(tmp_path / name, 96, 128, rate=25, **options):
        pytest.fail("entered")
    assert cause in refusal(error, tmp_path / name)
    assert sorted(tmp_path.rglob("*")) == before


def test_impossible_codecs(tmp_path):
    with pytest.raises(InputError, match=", ".join(CODECS)), VideoWriter(tmp_path / "a.mp4", 8, 8, rate=1, codec="x"):
        pytest.fail("entered")
    lossy = VideoWriter(tmp_path / "a.mp4", 8, 8, rate=1, codec="lossless", crf=10)
    with pytest.raises(InputError, match="lossy"), lossy:
        pytest.fail("entered")


def test_the_final_name_appears_only_when_complete(tmp_path):
    path = with_bytes(tmp_path / "a.mp4", b"an older result")
    with pytest.raises(KeyboardInterrupt), VideoWriter(path, 96, 128, rate=25) as writer:
        writer.write(np.stack([picture(i) for i in range(30)]))
        assert path.read_bytes() == b"an older result" and len(list(tmp_path.iterdir())) == 2
        raise KeyboardInterrupt
    assert path.read_bytes() == b"an older result" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(InputError, match="no frame"), VideoWriter(path, 96, 128, rate=25):
        pass
    with pytest.raises(ValueError, match="expected uint8"), VideoWriter(path, 96, 128, rate=25) as writer:
        writer.write(picture(0, 96, 130))
    with pytest.raises(ValueError, match="not come after"), VideoWriter(path, 96, 128, rate=25) as writer:
        writer.write(np.stack([picture(0)] * 2), [Fraction(1), Fraction(1)])
    assert path.read_bytes() == b"an older result" and list(tmp_path.iterdir()) == [path]
    with VideoWriter(path, 96, 128, rate=25) as writer:
        writer.write(picture(0))
    assert numbers(read(path)[1]) == [0] and list(tmp_path.iterdir()) == [path]


# --- Real footage ---


@pytest.mark.skipif(not CLIPS.is_dir(), reason="the real clips are not beside the repository")
@pytest.mark.parametrize(
    ("name", "reader", "least"),
    [("nasa_13013.mp4", "decord", 40), ("h265_10bits.mp4", "pyav", 26)],  # the second: saturated noise, chroma alone 30
)
def test_real_footage_read_write_read(tmp_path, name, reader, least):
    source = VideoReader(CLIPS / name)
    audio = source.path if source.info.has_audio else None
    size = (source.info.height, source.info.width)
    frames, old_times = [], []
    with VideoWriter(tmp_path / "out.mp4", *size, like=source.info, audio_from=audio) as writer:
        for part, times in source.chunks(16):
            writer.write(part, times)
            frames += list(part[:, ::4, ::4])
            old_times += times
    again, new_frames, new_times = read(tmp_path / "out.mp4")
    assert new_times == old_times and len(frames) == source.info.frames
    assert (again.info.rate, again.info.height, again.info.width) == (source.info.rate, *size)
    assert psnr([frame[::4, ::4] for frame in new_frames], frames) > least
    sample = source.sample([len(frames) - 1, 3])
    assert sample.reader == reader
    assert psnr(sample.frames_THWC[:, ::4, ::4], [frames[-1], frames[3]]) > least - 10
    if audio:
        with av.open(str(source.path)) as old, av.open(str(tmp_path / "out.mp4")) as new:
            assert len(new.streams.audio) == len(old.streams.audio) == 2
            sounds = [[(p.stream.codec.name, bytes(p)) for p in c.demux(c.streams.audio) if p.size] for c in (old, new)]
        assert sorted(sounds[0]) == sorted(sounds[1])
