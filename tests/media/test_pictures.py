"""Pictures as clips of one frame, folders of frames as clips in natural order."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from footage import numbers, picture, psnr, read
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from seedvr2_lab.console import InputError
from seedvr2_lab.media.pictures import natural_key
from seedvr2_lab.media.video import VideoReader
from seedvr2_lab.media.video_writer import VideoWriter


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


# --- Folders of frames ---


def folder_of(folder: Path, names: list[str], size: tuple[int, int] = (96, 128)) -> Path:
    """A folder whose pictures bear the places of these names as numbers."""
    folder.mkdir()
    for i, name in enumerate(names):
        Image.fromarray(picture(i, *size)).save(folder / name)
    return folder


def test_a_folder_is_a_clip_of_its_pictures_in_natural_order(tmp_path):
    names = ["img2.png", "img10.png", "img0100.png", "img101.PNG"]
    folder = folder_of(tmp_path / "frames", names)
    (folder / "notes.txt").write_text("not a frame")
    (folder / ".img1.png").write_text("hidden")
    (folder / "img1.png.d").mkdir()
    reader, frames, times = read(folder)
    assert numbers(frames) == [0, 1, 2, 3] and times == [Fraction(i, 25) for i in range(4)]
    assert (reader.info.frames, reader.info.height, reader.info.width, reader.info.rate) == (4, 96, 128, 25)
    assert np.array_equal(frames[1], picture(1))
    assert [part.shape[0] for part, _ in reader.chunks(3)] == [3, 1]
    sample = VideoReader(folder, rate=Fraction(30000, 1001)).sample([3, 0, 3])
    assert numbers(sample.frames_THWC) == [3, 0, 3] and sample.reader == "pillow"
    assert sample.times == [Fraction(3003, 30000), 0, Fraction(3003, 30000)]


@given(st.lists(st.integers(0, 10**12), unique=True), st.randoms())
@settings(max_examples=30, deadline=None)
def test_names_sort_as_people_count(counts, random):
    paths = [Path(f"shot{count}b.png") for count in sorted(counts)]
    assert sorted(random.sample(paths, len(paths)), key=natural_key) == paths


def test_upright_sizes_are_compared(tmp_path):
    folder = folder_of(tmp_path / "frames", ["0.jpg"])
    exif = Image.Exif()
    exif[0x0112] = 8  # to be turned counterclockwise
    Image.fromarray(np.rot90(picture(1), -1)).save(folder / "1.jpg", exif=exif)
    assert numbers(read(folder)[1]) == [0, 1]


def test_folders_that_are_no_clip(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no picture lies in this folder; name"):
        VideoReader(tmp_path / "empty")
    folder = folder_of(tmp_path / "sizes", ["0.png", "1.png"])
    Image.fromarray(picture(2, 96, 130)).save(folder / "2.png")
    with pytest.raises(InputError, match=r"2\.png: is 130x96, others in its folder 128x96; the frames"):
        VideoReader(folder, tolerant=True)


def test_a_damaged_frame_is_named_or_skipped(tmp_path):
    folder = folder_of(tmp_path / "frames", ["0.png", "1.png", "2.png", "3.png"])
    half = (folder / "1.png").read_bytes()
    (folder / "1.png").write_bytes(half[: len(half) // 2])  # its header still tells the size
    with pytest.raises(InputError, match=r"1\.png: is not a readable picture"):
        read(folder)
    (folder / "2.png").write_bytes(b"no header")
    with pytest.raises(InputError, match=r"2\.png: is not a readable picture"):
        VideoReader(folder)  # without reading the pixels
    reader, frames, times = read(folder, tolerant=True)
    assert numbers(frames) == [0, 3] and reader.skipped == 2 and times == [0, Fraction(3, 25)]


def test_a_name_without_suffix_is_written_as_a_folder_of_frames(tmp_path):
    frames, target = np.stack([picture(i, 97, 131) for i in range(12)]), tmp_path / "out"
    with pytest.raises(KeyboardInterrupt), VideoWriter(target, 97, 131, rate=25) as writer:
        writer.write(frames)
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="no frame"), VideoWriter(target, 97, 131, rate=25):
        pass
    assert not list(tmp_path.iterdir())
    target.mkdir()  # an empty folder is as good as none
    with VideoWriter(target, 97, 131, rate=25) as writer:
        writer.write(frames)
        assert not list(target.iterdir())
    assert sorted(path.name for path in target.iterdir()) == [f"{i:06d}.png" for i in range(12)]
    assert np.array_equal(read(target)[1], frames)
    assert list(tmp_path.iterdir()) == [target]
    with pytest.raises(InputError, match="a folder in use"), VideoWriter(target, 97, 131, rate=25):
        pytest.fail("entered")
