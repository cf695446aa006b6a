"""Files that cannot be read as they are: one line each that names the file and a remedy; no crash, no hang."""

import json
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from footage import add_tone, faststart, make, numbers, patch, picture, read, refusal, with_bytes
from PIL import Image

from seedvr2_lab.console import InputError
from seedvr2_lab.media.video import VideoReader


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("clips") / "clip.mp4")


def most_of(data: bytes) -> bytes:
    return data[: len(data) * 6 // 10]


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


def end_of_zeros(source: Path, target: Path) -> Path:
    data = source.read_bytes()
    return with_bytes(target, most_of(data) + bytes(len(data) - len(most_of(data))))


NOISE = np.random.default_rng(0).bytes(5000)
BAD = {
    "missing": (lambda t, clip: t / "no.mp4", "no such file"),
    "empty folder": (lambda t, clip: t, "no picture lies in this folder"),
    "empty": (lambda t, clip: with_bytes(t / "a.mp4", b""), "empty"),
    "text": (lambda t, clip: with_bytes(t / "a.mp4", b"hello\n" * 99), "not a readable video"),
    "text as text": (lambda t, clip: with_bytes(t / "a.txt", b"hello\n" * 99), "text"),
    "text as picture": (lambda t, clip: with_bytes(t / "a.png", b"hello\n" * 99), "not a readable picture"),
    "sound": (lambda t, clip: sound_only(t / "a.mp4"), "no video stream"),
    "no frame": (lambda t, clip: without_frames(t / "a.mp4"), "no video stream"),
    "index cut off": (lambda t, clip: with_bytes(t / "a.mp4", most_of(clip.read_bytes())), "not a readable video"),
    "end cut off": (
        lambda t, clip: with_bytes(t / "b.mp4", most_of(faststart(clip, t / "a.mp4").read_bytes())),
        "damaged",
    ),
    "end of zeros": (lambda t, clip: end_of_zeros(make(t / "a.mkv"), t / "b.mkv"), "ends at"),
    "random bytes": (lambda t, clip: with_bytes(t / "a.mp4", NOISE), "not a readable video"),
    "random bytes as picture": (lambda t, clip: with_bytes(t / "a.png", NOISE), "not a readable picture"),
    "video as picture": (lambda t, clip: with_bytes(t / "a.png", clip.read_bytes()), "not a readable picture"),
}


@pytest.mark.parametrize("kind", BAD)
def test_refuses_in_one_line(tmp_path, clip, kind):
    source, cause = BAD[kind]
    path = source(tmp_path, clip)
    with pytest.raises(InputError) as error:
        VideoReader(path)
    assert cause in refusal(error, path)


def test_damage_inside_is_named_or_tolerated(tmp_path, clip):
    data = bytearray(faststart(clip, tmp_path / "whole.mp4").read_bytes())
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


def test_a_wrong_suffix_does_not_matter_to_a_video(tmp_path, clip):
    for name in ("a.mkv", "a.avi", "a.txt", "a"):
        assert numbers(read(with_bytes(tmp_path / name, clip.read_bytes()))[1]) == list(range(40))
    Image.fromarray(picture(7)).save(tmp_path / "a.png")
    assert numbers(read((tmp_path / "a.png").rename(tmp_path / "b.mp4"))[1]) == [7]


# --- In a process of their own, with a time limit ---


def outcomes(paths: list[Path]) -> dict[Path, dict]:
    """What comes of reading and sampling each file: its refusal ("error"), or the frame numbers read and sampled."""
    code = """
import json, sys
import av
from footage import numbers
from seedvr2_lab.console import InputError
from seedvr2_lab.media.video import VideoReader
av.logging.set_level(av.logging.PANIC)
for path in sys.argv[1:]:
    print(json.dumps({"path": path}))
    try:
        reader = VideoReader(path)
        result = {"read": numbers(frame for frame, _ in reader)}
        sample = reader.sample([reader.info.frames - 1, 0])
        result |= {"sampled": numbers(sample.frames_THWC), "reader": sample.reader, "reason": sample.reason}
    except InputError as error:
        result = {"error": str(error)}
    print(json.dumps({"path": path} | result), flush=True)
"""
    folders = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    code = f"import sys; sys.path[:0] = {folders}\n{code}"
    command = [sys.executable, "-c", code, *map(str, paths)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    lines = [json.loads(line) for line in run.stdout.splitlines()]
    assert run.returncode == 0, f"{lines[-1]['path']}: {run.stderr[-500:]}"
    return {Path(line["path"]): line for line in lines if len(line) > 1}


TRUNCATED = {
    "a.mp4": lambda path: make(path, audio=True),
    "b.mp4": lambda path: faststart(make(path.with_name("plain.mp4")), path),
    "c.mkv": make,
    "d.webm": lambda path: make(path, codec="libvpx-vp9"),
    "e.mov": lambda path: make(path, codec="libx265", options={"x265-params": "log-level=none"}),
    "f.avi": lambda path: make(path, codec="mpeg4"),
    "g.ts": make,
    "h.png": lambda path: Image.fromarray(picture(0)).save(path),
    "i.jpg": lambda path: Image.fromarray(picture(0)).save(path),
    "j.webp": lambda path: Image.fromarray(picture(0)).save(path),
    "k.bmp": lambda path: Image.fromarray(picture(0)).save(path),
    "l.tiff": lambda path: Image.fromarray(picture(0)).save(path),
}


def test_truncated_files_are_refused(tmp_path):
    """Wherever a file ends, at ten places: never a shorter clip, except in MPEG-TS, which may be cut anywhere."""
    whole, places = tmp_path / "whole", {}
    whole.mkdir()
    for name, build in TRUNCATED.items():
        build(whole / name)
        data = (whole / name).read_bytes()
        for end in np.linspace(len(data) * 0.03, len(data) - 20, 10).astype(int):
            places[with_bytes(tmp_path / f"{end}{name}", data[:end])] = name
    for path, result in outcomes(list(places)).items():
        if "error" in result:
            assert str(path) in result["error"] and "\n" not in result["error"] and ";" in result["error"]
        elif path.suffix == ".ts":
            assert result["read"] == sorted(set(result["read"]))
        else:
            assert path.suffix in (".png", ".webp") and result["read"] == [0]  # only the trailer was missing
    assert len(outcomes(list(places))) == 10 * len(TRUNCATED)


def test_a_header_that_kills_decord_does_not_reach_it(tmp_path, clip):
    """One damaged byte makes the header announce three thousand million frames; decord allocates them and aborts."""
    path = patch(clip, tmp_path / "huge.mp4", b"stts", 8, ">I", 0xB0000028)
    alone = f"import decord; decord.VideoReader({str(path)!r}, num_threads=1)"
    assert subprocess.run([sys.executable, "-c", alone], capture_output=True, check=False).returncode < 0
    result = outcomes([path])[path]
    assert result["read"] == list(range(40)) and result["sampled"] == [39, 0]
    assert (result["reader"], result["reason"]) == ("pyav", "another count in the header")


def test_bytes_changed_anywhere_neither_crash_nor_hang(tmp_path, clip):
    random = np.random.default_rng(0)
    sources = [clip, make(tmp_path / "a.mkv", frames=20), make(tmp_path / "b.webm", frames=20, codec="libvpx-vp9")]
    paths = []
    for i in range(60):
        data = bytearray(sources[i % 3].read_bytes())
        reach = (len(data), 1200)[i // 3 % 2]
        for place in random.integers(0, reach, random.integers(1, 20)):
            data[-place] = random.integers(256)
        paths.append(with_bytes(tmp_path / f"{i}{sources[i % 3].suffix}", bytes(data)))
    results = outcomes(paths)
    assert len(results) == 60 and any("error" in result for result in results.values())
