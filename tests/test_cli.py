"""The command line as a user meets it: what it prints, its exit status, what it leaves behind."""

import json
from fractions import Fraction

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


def test_the_summary_for_machines_and_a_dry_run(clip, tmp_path, capsys):
    target = str(tmp_path / "out.mp4")
    assert main(["restore", str(clip), target, "--area", "40x50", "--strength", "0", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["clips"], summary["frames"], summary["height"], summary["width"]) == (1, 7, 40, 50)
    assert summary["seconds"]["write"] > 0 and summary["peak_bytes"] > 1e8
    assert main(["restore", str(clip), str(tmp_path / "other.mp4"), "--dry-run"]) == 0
    assert "nothing was written: would need about" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["out.mp4"]


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


@pytest.mark.parametrize("arguments", [[], ["restore"], ["restore", "a.mp4", "b.mp4", "--scale"]])
def test_wrong_usage_ends_with_status_2(capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
