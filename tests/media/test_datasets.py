"""Clips from a user's folder: what is used and what is not; the same bytes for any number of workers and any start."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from footage import make, numbers, picture, with_bytes
from PIL import Image
from torch import Tensor

from seedvr2_lab.console import InputError
from seedvr2_lab.media.clips import Source, sample_clips
from seedvr2_lab.media.datasets import ClipFolder, prepare

SIZE = (64, 80)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pixels(clip: Tensor) -> np.ndarray:
    """(3, T, H, W) in [0, 1] as (T, H, W, 3) uint8."""
    return (clip * 255).round().byte().permute(1, 2, 3, 0).numpy()


def write_frames(folder: Path, count: int) -> Path:
    folder.mkdir()
    for i in range(count):
        Image.fromarray(picture(i)).save(folder / f"{i}.png")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Videos of several sizes and lengths for both readers, a folder of frames, a picture; and what cannot be used."""
    folder = tmp_path_factory.mktemp("data")
    make(folder / "long.mp4", frames=60)
    make(folder / "large 10 bit.mkv", frames=20, size=(120, 161), codec="ffv1", pixels="yuv420p10le")
    (folder / "deep" / "er").mkdir(parents=True)
    make(folder / "deep" / "er" / "seven.avi", frames=7, codec="mpeg4")
    write_frames(folder / "frames", 12)
    Image.fromarray(picture(200, 200, 200)).save(folder / "still.jpg")
    make(folder / "short.mp4", frames=4)
    make(folder / "small.mp4", frames=9, size=(62, 200))
    with_bytes(folder / "notes.md", b"not a clip")
    with_bytes(folder / ".hidden.mp4", b"not looked at")
    return folder


def test_what_cannot_be_used_is_counted_in_one_line(folder):
    with pytest.warns(UserWarning, match="left out") as seen:
        source = ClipFolder(folder, 5, SIZE)
    (warning,) = [str(record.message) for record in seen]
    assert warning.startswith(f"{folder}: 3 of 8 left out: ") and "\n" not in warning
    assert all(count in warning for count in ("1 unreadable", "1 too short", "1 too small"))
    names = ["deep/er/seven.avi", "frames", "large 10 bit.mkv", "long.mp4", "still.jpg"]
    assert [reader.path for reader in source.readers] == [folder / name for name in names] and len(source) == 5


@pytest.mark.parametrize("kind", ["missing", "empty", "file", "useless"])
def test_a_folder_without_clips_is_refused(tmp_path, kind):
    path = tmp_path / kind
    if kind in ("empty", "useless"):
        path.mkdir()
    if kind == "file":
        path.touch()
    if kind == "useless":
        make(path / "short.mp4", frames=4)
    with pytest.raises(InputError, match="; name") as error:
        ClipFolder(path, 5, SIZE)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    assert ("4 of 128x96" in str(error.value)) == (kind == "useless")


@pytest.mark.parametrize("name", ["a.mp4", "a.avi"])
def test_clips_of_a_video_are_runs_of_its_frames(tmp_path, name):
    """On uncropped frames, where the burnt-in numbers can be read, mirrored or not."""
    make(tmp_path / name, frames=9, codec="libx264" if name == "a.mp4" else "mpeg4")
    source, starts, flips = ClipFolder(tmp_path, 6, (96, 128)), set(), set()
    for seed in range(30):
        frames = pixels(source.clip(0, 6, (96, 128), generator(seed)))
        plain = list(range(numbers(frames)[0], numbers(frames)[0] + 6)) == numbers(frames)
        shown = numbers(frames if plain else frames[:, :, ::-1])
        assert shown == list(range(shown[0], shown[0] + 6))
        starts.add(shown[0])
        flips.add(plain)
    assert starts == {0, 1, 2, 3} and flips == {True, False}


def test_crops_are_cut_out_of_the_frames_at_one_place(tmp_path):
    write_frames(tmp_path / "frames", 4)
    source = ClipFolder(tmp_path, 3, SIZE)
    corners = set()
    for seed in range(12):
        seen = pixels(source.clip(0, 2, SIZE, generator(seed)))
        places = set()
        for first in range(3):
            for flipped in (seen, seen[:, :, ::-1]):
                whole = np.stack([picture(first), picture(first + 1)])
                windows = np.lib.stride_tricks.sliding_window_view(whole, SIZE, (1, 2))  # (T, y, x, C, h, w)
                same = (windows[..., ::16, ::16] == flipped[:, ::16, ::16].transpose(0, 3, 1, 2)[:, None, None]).all(
                    (0, 3, 4, 5)
                )
                places |= {tuple(place) for place in np.argwhere(same).tolist()}
        assert places
        corners |= places
    assert len(corners) > 6


def test_pictures_move_and_lone_frames_are_crops(tmp_path):
    Image.fromarray(picture(0, 200, 200)).save(tmp_path / "a.png")
    source = ClipFolder(tmp_path, 5, SIZE)
    moving, still = source(2, 5, SIZE, generator()), source(2, 1, SIZE, generator())
    assert moving.shape == (2, 3, 5, *SIZE) and still.shape == (2, 3, 1, *SIZE)
    assert moving.min() >= 0 and moving.max() <= 1
    assert ((moving[:, :, 1:] - moving[:, :, :-1]).abs().mean((1, 2, 3, 4)) > 1e-3).all()
    with pytest.raises(ValueError, match="checked for up to 5 frames"):
        source(1, 6, SIZE, generator())


@pytest.mark.filterwarnings("ignore:.*left out")
def test_a_folder_and_the_bundled_pictures_are_both_sources(folder):
    sources: list[Source] = [ClipFolder(folder, 5, SIZE), partial(sample_clips, "training")]
    for source in sources:
        first, again, other = (source(3, 5, SIZE, generator(seed)) for seed in (0, 0, 1))
        assert first.shape == (3, 3, 5, *SIZE) and first.dtype == torch.float32
        assert torch.equal(first, again) and not torch.equal(first, other)


WORKERS = """
import hashlib, json, sys, warnings
import torch
from seedvr2_lab.media.datasets import ClipFolder, prepare

warnings.simplefilter("ignore")
source = ClipFolder(sys.argv[1], 5, (64, 80))

def batch(step):
    return source(3, (1, 5)[step % 2], (64, 80), torch.Generator().manual_seed(step))

def digests(steps, workers):
    return [hashlib.sha256(clips.numpy().tobytes()).hexdigest() for clips in prepare(batch, steps, workers)]

before = torch.get_rng_state()
runs = {f"{workers} from {first}": digests(range(first, 8), workers) for workers in (0, 1, 2) for first in (0, 3)}
print(json.dumps(runs | {"untouched": torch.equal(before, torch.get_rng_state())}))
"""


def test_workers_and_resuming_change_no_byte(folder):
    """In a process of its own: a fork after decord has run would hang, were its reader kept."""
    run = subprocess.run(
        [sys.executable, "-c", WORKERS, str(folder)], capture_output=True, text=True, timeout=600, check=False
    )
    assert run.returncode == 0, run.stderr[-1000:]
    runs = json.loads(run.stdout)
    assert runs.pop("untouched")
    whole = runs["0 from 0"]
    assert len(set(whole)) == 8
    for name, digests in runs.items():
        assert digests == (whole[3:] if name.endswith("3") else whole), name


def test_a_refusal_in_a_worker_stays_one_line():
    def batch(step: int) -> int:
        if step == 2:
            raise InputError("clip.mp4: is damaged; get a whole copy")
        return step

    for workers in (0, 1):
        batches = prepare(batch, range(4), workers)
        assert [next(batches), next(batches)] == [0, 1]
        with pytest.raises(InputError, match=r"^clip.mp4: is damaged; get a whole copy$"):
            next(batches)


@pytest.mark.filterwarnings("ignore:.*left out")
def test_a_changed_file_changes_the_identity(tmp_path):
    write_frames(tmp_path / "frames", 6)
    before = ClipFolder(tmp_path, 5, SIZE).identity()
    assert ClipFolder(tmp_path, 5, SIZE).identity() == before
    os.utime(tmp_path / "frames" / "3.png", (0, 0))
    assert ClipFolder(tmp_path, 5, SIZE).identity() != before
