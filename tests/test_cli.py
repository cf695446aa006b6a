"""The command line as a user meets it: what it prints, its exit status, what it leaves behind."""

import shutil
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from seedvr2_lab.cli import main
from seedvr2_lab.media.video import VideoReader
from seedvr2_lab.media.video_writer import VideoWriter


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Seven frames of 24x30 at 12.5 frames a second."""
    path = tmp_path_factory.mktemp("clip") / "low.mp4"
    frames = np.random.default_rng(0).integers(0, 255, (7, 24, 30, 3), dtype=np.uint8)
    with VideoWriter(path, 24, 30, Fraction(25, 2)) as writer:
        writer.write(frames)
    return path


def test_restore_keeps_frames_and_rate_and_gives_the_exact_size(clip, tmp_path, capsys):
    target = tmp_path / "out.mp4"
    assert main(["restore", str(clip), str(target), "--height", "51"]) == 0
    info = VideoReader(target).info
    assert (info.frames, info.height, info.width) == (7, 51, 64)  # 30 * 51 / 24 = 63.75
    assert info.rate == VideoReader(clip).info.rate
    assert "7 frames of 64x51" in capsys.readouterr().out


def test_a_picture_is_restored_to_a_picture(tmp_path):
    source, target = tmp_path / "in.png", tmp_path / "out.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 13, 3), dtype=np.uint8)).save(source)
    assert main(["restore", str(source), str(target), "--scale", "3"]) == 0
    assert Image.open(target).size == (39, 27)


def bad_files(folder, clip):
    (folder / "text.mp4").write_text("this is no video\n")
    (folder / "empty.mp4").touch()
    (folder / "cut.mp4").write_bytes(clip.read_bytes()[:300])
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("source", "target", "options", "word"),
    [
        ("missing.mp4", "out.mp4", [], "missing.mp4"),
        ("text.mp4", "out.mp4", [], "text.mp4"),
        ("empty.mp4", "out.mp4", [], "empty.mp4"),
        ("cut.mp4", "out.mp4", [], "cut.mp4"),
        ("sound.mp4", "out.mp4", [], "sound.mp4"),
        (".", "out.mp4", [], "no picture"),
        ("clip.mp4", "no/such/out.mp4", [], "no/such"),
        ("clip.mp4", "out.xyz", [], "out.xyz"),
        ("clip.mp4", "out.png", [], "picture"),
        ("clip.mp4", "clip.mp4", [], "exists"),
        ("clip.mp4", "clip.mp4", ["--overwrite"], "clip.mp4"),
        ("clip.mp4", "out.mp4", ["--scale", "0"], "scale"),
        ("clip.mp4", "out.mp4", ["--scale", "-2"], "scale"),
        ("clip.mp4", "out.mp4", ["--scale", "nan"], "scale"),
        ("clip.mp4", "out.mp4", ["--height", "0"], "height"),
        ("clip.mp4", "out.mp4", ["--model", "huge"], "tiny"),
        ("clip.mp4", "out.mp4", ["--model", "text.mp4"], "text.mp4"),
        ("clip.mp4", "out.mp4", ["--codec", "mjpeg"], "h264"),
        ("clip.mp4", "out.mp4", ["--device", "gpu9"], "gpu9"),
    ],
)
def test_bad_input_is_one_line_status_2_and_leaves_nothing(clip, tmp_path, capsys, source, target, options, word):
    bad_files(tmp_path, clip)
    shutil.copyfile(clip, tmp_path / "clip.mp4")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    options = [str(tmp_path / option) if option == "text.mp4" else option for option in options]
    assert main(["restore", str(tmp_path / source), str(tmp_path / target), *options]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and word in lines[0]
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["99"], "99"),
        (["00", "--profile", "huge"], "huge"),
        (["00", "-p", "colour", "red"], "colour"),
        (["00", "-p", "frames", "many"], "frames"),
        (["00", "--jobs", "0"], "jobs"),
        (["00", "--notebooks", "nowhere"], "nowhere"),
        (["00", "--out", "/dev/null/reports"], "/dev/null"),
    ],
)
def test_a_report_that_cannot_be_made_is_one_line_and_status_2(capsys, arguments, word):
    assert main(["report", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and word in lines[0]


@pytest.mark.parametrize("arguments", [[], ["restore"], ["restore", "a.mp4", "b.mp4", "--scale", "2", "--height", "9"]])
def test_wrong_usage_ends_with_status_2(capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
