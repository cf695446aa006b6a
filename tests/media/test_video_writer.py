"""What is written comes back: colours, sizes, times, sound; and the final name appears only when all is there."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.reformatter import ColorRange
from footage import KINDS, make, numbers, picture, psnr, read, refusal, with_bytes

from seedvr2_lab.console import InputError
from seedvr2_lab.media.video import VideoReader
from seedvr2_lab.media.video_writer import CODECS, VideoWriter

BT709_LUMA = np.array([0.2126, 0.7152, 0.0722])
CLIPS = Path(__file__).parents[2] / "../shared/clips"


# --- Colours ---


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


@pytest.mark.parametrize(("name", "codec"), [("a.mp4", "h264"), ("a.mov", "h265"), ("a.webm", "vp9"), ("a.mkv", "vp9")])
def test_generations_do_not_move_the_colours(tmp_path, name, codec):
    """Four times written and read at the best quality: chroma taken at another place than readers take it drifts."""
    from skimage.data import astronaut

    original = frame = np.ascontiguousarray(astronaut()[100:228, 100:260])
    for _ in range(4):
        with VideoWriter(tmp_path / name, 128, 160, rate=25, codec=codec, crf=0) as writer:
            writer.write(frame)
        ((frame, _),) = VideoReader(tmp_path / name)
    assert psnr(frame, original) > 40


@pytest.mark.parametrize("codec", CODECS)
def test_the_same_frames_give_the_same_packets(tmp_path, codec):
    """Whatever lies in the memory that the encoder is given: a resumed run has to end on the same pixels."""
    random = np.random.default_rng(0)
    scene = random.integers(60, 180, (28, 28, 3)).repeat(8, 0).repeat(8, 1)
    grain = random.integers(0, 20, (192, 192, 3))
    frames = np.stack([scene[i : i + 192, 2 * i % 32 :][:, :192] + np.roll(grain, 7 * i, 0) for i in range(30)])
    seen = set()
    for _ in range(8):
        with VideoWriter(tmp_path / "a.mkv", 192, 192, rate=25, codec=codec) as writer:
            writer.write(frames.astype(np.uint8))
        with av.open(tmp_path / "a.mkv") as container:
            seen.add(b"".join(bytes(packet) for packet in container.demux(video=0)))
        list(VideoReader(tmp_path / "a.mkv"))  # other content in the memory that comes free
        (tmp_path / "a.mkv").unlink()
    assert len(seen) == 1


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_shortest_clips(tmp_path, codec, count):
    """x265 leaves a time stamp of these to chance, so several attempts."""
    frames = np.stack([picture(i) for i in range(count)])
    for _ in range(4 if codec == "h265" else 1):
        with VideoWriter(tmp_path / "a.mkv", 96, 128, rate=25, codec=codec) as writer:
            writer.write(frames)
        _, seen, times = read(tmp_path / "a.mkv")
        assert numbers(seen) == list(range(count)) and times == [Fraction(i, 25) for i in range(count)]


# --- Times, sizes and sound ---


def copy(source: Path, target: Path) -> VideoReader:
    """Read and write, with times and sound; the reader of the source."""
    reader = VideoReader(source)
    audio, size = source if reader.info.has_audio else None, (reader.info.height, reader.info.width)
    with VideoWriter(target, *size, like=reader.info, audio_from=audio) as writer:
        for frames, times in reader.chunks(7):
            writer.write(frames, times)
    return reader


CLOCKS = ("ntsc.mkv", "variable rate.mp4", "sound.mp4", "late start.mp4", "program.ts", "anamorphic.mp4")
LAYOUTS = [(name, ".mp4") for name in KINDS] + [(name, suffix) for name in CLOCKS for suffix in (".mov", ".mkv")]


@pytest.mark.parametrize(("name", "suffix"), LAYOUTS)
def test_read_write_read_keeps_count_order_size_times_and_sound(tmp_path, name, suffix):
    kind, target = KINDS[name], tmp_path / f"out{suffix}"
    source = kind.build(tmp_path / name)
    old, (new, frames, times) = copy(source, target).info, read(target)
    assert kind.numbers(frames) == list(kind.shown) and new.info.frames == len(kind.shown)
    assert (new.info.height, new.info.width, new.info.rotation) == (*kind.size, 0)
    assert new.info.pixel_aspect == kind.pixel_aspect
    rounding = Fraction(1, 1000) if suffix == ".mkv" and not old.regular else 0  # Matroska's own tick
    assert all(abs(new - old) <= rounding for new, old in zip(times, read(source)[2], strict=True))
    assert new.info.rate == old.rate or rounding
    if old.has_audio:
        kept = [packet for packet in sound(source) if packet[0] >= 0 or suffix != ".mkv"]
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


# --- Refusals ---


OUTPUTS = {
    "suffix": ("a.xyz", {}, "unknown suffix"),
    "file as folder of frames": ("plain", {}, "is a file"),
    "missing folder": ("none/a.mp4", {}, "not a folder"),
    "file as folder": ("clip.mp4/a.mp4", {}, "not a folder"),
    "folder": ("folder.mp4", {}, "a folder in use"),
    "folder in use": (".", {}, "a folder in use"),
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
    (tmp_path / "plain").touch()
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
    with pytest.raises(InputError, match="64 pixels"), VideoWriter(tmp_path / "a.mp4", 63, 80, rate=1, codec="h265"):
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
    ("name", "reader", "least", "least_luma"),  # dB; the second is saturated noise: 4:2:0 alone leaves it 32.6
    [("nasa_13013.mp4", "decord", 47, 50), ("h265_10bits.mp4", "pyav", 31, 44)],
)
def test_real_footage_read_write_read(tmp_path, name, reader, least, least_luma):
    source = VideoReader(CLIPS / name)
    audio = source.path if source.info.has_audio else None
    size = (source.info.height, source.info.width)
    frames, old_times = [], []
    with VideoWriter(tmp_path / "out.mp4", *size, like=source.info, audio_from=audio) as writer:
        for part, times in source.chunks(16):
            writer.write(part, times)
            frames += list(part[:, ::3, ::3])
            old_times += times
    again, new_frames, new_times = read(tmp_path / "out.mp4")
    assert new_times == old_times and len(frames) == source.info.frames
    assert (again.info.rate, again.info.height, again.info.width) == (source.info.rate, *size)
    seen = np.stack([frame[::3, ::3] for frame in new_frames])
    assert psnr(seen, frames) > least and psnr(seen @ BT709_LUMA, np.stack(frames) @ BT709_LUMA) > least_luma
    sample = source.sample([len(frames) - 1, 3])
    assert sample.reader == reader
    assert psnr(sample.frames_THWC[:, ::3, ::3], [frames[-1], frames[3]]) > least - 10
    if audio:
        with av.open(str(source.path)) as old, av.open(str(tmp_path / "out.mp4")) as new:
            assert len(new.streams.audio) == len(old.streams.audio) == 2
            sounds = [[(p.stream.codec.name, bytes(p)) for p in c.demux(c.streams.audio) if p.size] for c in (old, new)]
        assert sorted(sounds[0]) == sorted(sounds[1])
