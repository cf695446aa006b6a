"""Every frame once, in order, at its own time, in its own colours, whoever reads it."""

import tracemalloc
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition
from av.video.reformatter import ColorRange
from footage import KINDS, OPEN_GOP, make, numbers, picture, read
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from seedvr2_lab.console import InputError
from seedvr2_lab.media.video import VideoReader


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("clips") / "clip.mp4")


@pytest.mark.parametrize("name", KINDS)
def test_reads_every_frame_in_order_and_samples_the_same_ones(tmp_path, name):
    kind = KINDS[name]
    reader, frames, times = read(kind.build(tmp_path / name))
    count, info = len(kind.shown), reader.info
    assert kind.numbers(frames) == list(kind.shown) and info.frames == count
    assert (info.height, info.width, info.rotation) == (*kind.size, kind.rotation)
    assert info.pixel_aspect == kind.pixel_aspect
    assert [time - times[0] for time in times] == kind.times()
    assert all(time % info.time_base == 0 for time in times)
    assert info.regular == ("stamps" not in kind.options)
    if info.regular:
        assert info.rate == kind.options.get("rate", 25)
    indices = np.random.default_rng(1).integers(0, count, 12)
    sample = reader.sample(indices)
    assert kind.numbers(sample.frames_THWC) == [kind.shown[i] for i in indices]
    assert sample.times == [times[i] for i in indices]
    assert (sample.reader, sample.reason) == (("pyav", kind.doubt) if kind.doubt else ("decord", ""))


def test_the_kinds_are_what_they_claim(tmp_path):
    """B-frames are stored before they are shown; players see the turned, wide and late clips so."""
    with av.open(str(KINDS["b-frames.mp4"].build(tmp_path / "b.mp4"))) as container:
        stamps = [packet.pts for packet in container.demux(video=0) if packet.size]
    assert stamps != sorted(stamps)
    assert read(KINDS["late start.mp4"].build(tmp_path / "late.mp4"))[2][0] == 2
    upright = [np.rot90(frame, -1) for frame in read(KINDS["plain.mp4"].build(tmp_path / "plain.mp4"))[1]]
    reader, frames, _ = read(KINDS["rotated.mp4"].build(tmp_path / "turned.mp4"))
    assert np.array_equal(frames, upright)
    assert np.abs(reader.sample([7]).frames_THWC[0].astype(int) - upright[7]).mean() < 3


@pytest.mark.parametrize("name", ["open GOP.mp4", "edit list.mp4"])
def test_decord_alone_is_silently_wrong(tmp_path, name):
    """Why there are two readers: decord hands out other frames of these files without a word."""
    import decord

    kind = KINDS[name]
    path, indices = kind.build(tmp_path / name), range(3, len(kind.shown), 4)
    expected = [kind.shown[i] for i in indices]
    assert numbers(decord.VideoReader(str(path), num_threads=1).get_batch(indices).asnumpy()) != expected
    assert numbers(VideoReader(path).sample(indices).frames_THWC) == expected


def test_decord_alone_hangs_across_a_fork_and_a_reader_does_not(clip):
    import decord

    inherited, reader = decord.VideoReader(str(clip), num_threads=1), VideoReader(clip)
    inherited[3].asnumpy(), reader.sample([3])
    with get_context("fork").Pool(1) as pool:
        sample = pool.apply_async(reader.sample, ([9, 2],)).get(timeout=600)
    assert sample.reader == "decord" and numbers(sample.frames_THWC) == [9, 2]
    child = get_context("fork").Process(target=lambda: inherited[20].asnumpy())
    child.start()
    child.join(2)
    hangs = child.is_alive()
    child.kill()
    child.join()
    assert hangs


@pytest.mark.parametrize("indices", [[], [40], [-1]])
def test_sampling_checks_its_indices(clip, indices):
    with pytest.raises(IndexError):
        VideoReader(clip).sample(indices)


def test_packets_that_show_nothing_are_not_counted(tmp_path):
    """VP8 has such packets to prepare later pictures; here one frame is made into one."""
    source, target = make(tmp_path / "a.webm", codec="libvpx"), tmp_path / "b.webm"
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for place, packet in enumerate(p for p in old.demux(video=0) if p.size):
            data = bytearray(bytes(packet))
            if place == 20:
                data[0] &= 0xEF
            copy = av.Packet(bytes(data))
            copy.pts, copy.dts, copy.time_base = packet.pts, packet.dts, packet.time_base
            copy.is_keyframe, copy.stream = packet.is_keyframe, stream
            new.mux(copy)
    reader, frames, times = read(target)
    assert reader.info.frames == len(frames) == 39
    assert numbers(frames) == [*range(20), *range(21, 40)]
    assert times[20] == Fraction(21, 25) and numbers(reader.sample([38, 20]).frames_THWC) == [39, 21]


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


def test_no_more_is_held_than_one_run_of_frames(tmp_path):
    """The peak of the arrays does not grow with the clip: the run in the making and the one handed out before."""
    frame = picture(0).nbytes
    for count in (40, 160):
        reader = VideoReader(make(tmp_path / f"{count}.mp4", frames=count))
        tracemalloc.start()
        for _ in reader.chunks(8):
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert 8 * frame < peak < (2 * 8 + 4) * frame
    assert next(iter(reader.chunks(10**9)))[0].shape[0] == 160


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
