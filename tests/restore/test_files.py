"""`restore` from file to file: counts, sizes, stretches, folders, metadata, progress, what a dry run says."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import ColorPrimaries, ColorRange, ColorTrc
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from seedvr2_lab.console import InputError
from seedvr2_lab.media.degrade import resize
from seedvr2_lab.media.video import VideoReader
from seedvr2_lab.restore import Cancelled, restore

CLIPS = Path(__file__).parents[2] / "../shared/clips"


@pytest.mark.parametrize("frames", range(1, 24))
def test_every_length_comes_back_whole(restorer, video, tmp_path, frames):
    target = tmp_path / "out.mp4"
    summary = restore(video(frames), target, height=13, model=restorer, chunk=7)
    info = VideoReader(target).info
    assert (info.frames, info.height, info.width) == (frames, 13, 16)
    assert (summary.frames, summary.height, summary.width) == (frames, 13, 16)
    assert list(tmp_path.iterdir()) == [target]


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 70), width=st.integers(1, 70))
@example(height=1, width=1)
@example(height=1, width=33)
@example(height=64, width=1)
@example(height=61, width=7)
@example(height=17, width=2001)
@example(height=2001, width=17)
def test_every_size_is_exact(restorer, video, tmp_path_factory, height, width):
    target = tmp_path_factory.mktemp("sizes") / "out.mp4"
    restore(video(2), target, height=height, width=width, model=restorer)
    info = VideoReader(target).info
    assert (info.frames, info.height, info.width) == (2, height, width)


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        (dict(), (32, 40)),
        (dict(scale=1.5), (12, 15)),
        (dict(width=33), (26, 33)),
        (dict(height=30, width=10), (30, 10)),
        (dict(area=500), (20, 25)),
    ],
)
def test_sizes_asked_for_in_every_way(restorer, video, tmp_path, asked, size):
    summary = restore(video(1), tmp_path / "out.mkv", model=restorer, strength=0, **asked)
    assert (summary.height, summary.width) == size


def test_strength_0_is_the_plain_resize(restorer, video, tmp_path, pixels):
    restore(video(9), tmp_path / "out.mkv", scale=2, model=restorer, strength=0, codec="lossless", chunk=5)
    low = torch.from_numpy(pixels(video(9))).permute(0, 3, 1, 2) / 255
    expected = (resize(low, (16, 20)) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    assert np.array_equal(pixels(tmp_path / "out.mkv"), expected)


def test_a_file_holds_what_restoring_in_memory_gives(restorer, video, tmp_path, pixels):
    restore(video(20), tmp_path / "out.mkv", scale=2, model=restorer, codec="lossless", chunk=9, seed=4)
    low = torch.from_numpy(pixels(video(20))).permute(3, 0, 1, 2) / 255
    restored = restorer(low, (16, 20), seed=4, chunk=9)
    assert np.array_equal(pixels(tmp_path / "out.mkv"), (restored * 255).round().byte().permute(1, 2, 3, 0).numpy())


def test_a_stretch_is_that_of_the_whole(restorer, video, tmp_path, pixels):
    options = dict(scale=1, model=restorer, codec="lossless", strength=0)
    restore(video(20), tmp_path / "out.mkv", start=0.2, end=0.5, **options)
    assert np.array_equal(pixels(tmp_path / "out.mkv"), pixels(video(20))[5:13])
    assert [time for _, time in VideoReader(tmp_path / "out.mkv")] == [Fraction(i, 25) for i in range(8)]


def with_sound(path: Path, seconds: int) -> Path:
    """Grey pictures and a chirp: the sound says which moment it is."""
    with av.open(str(path), "w") as container:
        picture, sound = (
            container.add_stream("libx264", rate=25),
            container.add_stream("pcm_s16le", rate=8000, layout="mono"),
        )
        picture.height, picture.width, picture.pix_fmt = 16, 16, "yuv420p"
        for i in range(25 * seconds):
            frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 5 * i % 256, np.uint8), format="rgb24")
            container.mux(picture.encode(frame))
        for k in range(10 * seconds):
            frame = av.AudioFrame.from_ndarray(np.full((1, 800), 100 * k, np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 8000, 800 * k, Fraction(1, 8000)
            container.mux(sound.encode(frame))
        container.mux(picture.encode())
        container.mux(sound.encode())
    return path


def test_sound_is_kept_and_a_stretch_has_its_own(restorer, tmp_path):
    source = with_sound(tmp_path / "in.mkv", 4)
    restore(source, tmp_path / "all.mkv", scale=1, model=restorer, strength=0)
    restore(source, tmp_path / "part.mkv", scale=1, model=restorer, strength=0, start=1, end=3)

    def samples(path):
        with av.open(str(path)) as container:
            return np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])

    assert np.array_equal(samples(tmp_path / "all.mkv"), samples(source))
    assert VideoReader(tmp_path / "part.mkv").info.frames == 50
    part = samples(tmp_path / "part.mkv")
    assert part[0] == 1000 and part[-1] == 2900 and len(part) == 16000


# --- Folders ---


def test_a_folder_is_restored_file_by_file(restorer, video, tmp_path, pixels):
    source, target = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    (source / "a.mkv").write_bytes(video(9).read_bytes())
    (source / "b.mkv").write_bytes(video(3, 6, 6).read_bytes())
    Image.fromarray(pixels(video(1))[0]).save(source / "c.png")
    (source / "notes.txt").write_text("no clip")
    options = dict(scale=2, model=restorer, codec="lossless", seed=5, chunk=5)
    summary = restore(source, target, **options)
    assert (summary.clips, summary.frames) == (3, 13)
    assert sorted(path.name for path in target.iterdir()) == ["a.mkv", "b.mkv", "c.png"]
    restore(source / "b.mkv", tmp_path / "b.mkv", **options)
    assert np.array_equal(pixels(target / "b.mkv"), pixels(tmp_path / "b.mkv"))  # whatever the other files are
    with pytest.raises(InputError, match=r"a\.mkv exists"):
        restore(source, target, **options)
    (target / "b.mkv").unlink()
    assert restore(source, target, resume=True, **options).clips == 1
    assert np.array_equal(pixels(target / "b.mkv"), pixels(tmp_path / "b.mkv"))


def test_frames_in_a_folder_are_a_clip_if_a_rate_or_the_target_says_so(restorer, video, tmp_path, pixels):
    source = tmp_path / "frames"
    source.mkdir()
    for i, frame in enumerate(pixels(video(9))):
        Image.fromarray(frame).save(source / f"f{i}.png")
    options = dict(scale=1, model=restorer, seed=1)
    restore(source, tmp_path / "clip", rate=Fraction(24), **options)
    restore(source, tmp_path / "clip.mkv", rate=30000 / 1001, codec="lossless", **options)
    restore(source, tmp_path / "alone", **options)
    low = torch.from_numpy(pixels(video(9))).permute(3, 0, 1, 2) / 255
    expected = (restorer(low, (8, 10), seed=1) * 255).round().byte().permute(1, 2, 3, 0).numpy()
    assert np.array_equal(pixels(tmp_path / "clip"), expected)
    assert np.array_equal(pixels(tmp_path / "clip.mkv"), expected)
    assert VideoReader(tmp_path / "clip.mkv").info.rate == Fraction(30000, 1001)
    assert sorted(path.name for path in (tmp_path / "alone").iterdir()) == [f"f{i}.png" for i in range(9)]
    assert not np.array_equal(pixels(tmp_path / "alone"), expected)


# --- What a file says about itself ---


def test_range_primaries_and_curve_are_kept(restorer, tmp_path):
    source, target = tmp_path / "in.mp4", tmp_path / "out.mp4"
    with av.open(str(source), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = 16, 16, "yuv420p"
        coder = stream.codec_context
        coder.color_primaries, coder.color_trc = ColorPrimaries.SMPTE170M, ColorTrc.SMPTE170M
        coder.color_range = ColorRange.JPEG
        for _ in range(3):
            frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), 250, np.uint8), format="rgb24")
            container.mux(stream.encode(frame.reformat(format="yuv420p", dst_color_range=ColorRange.JPEG)))
        container.mux(stream.encode())
    restore(source, target, scale=2, model=restorer, strength=0)
    before, after = VideoReader(source), VideoReader(target)
    for name in ("primaries", "transfer", "full_range"):
        assert getattr(after.info, name) == getattr(before.info, name)
    assert after.info.full_range and after.info.primaries == ColorPrimaries.SMPTE170M
    (first, _), (again, _) = next(iter(before)), next(iter(after))
    assert abs(int(first.mean()) - int(again.mean())) <= 1


def test_a_picture_keeps_its_colour_profile_and_stands_upright(restorer, tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise
    pixels = np.random.default_rng(0).integers(0, 255, (9, 13, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "in.png", icc_profile=profile, exif=exif)
    restore(tmp_path / "in.png", tmp_path / "out.png", scale=2, model=restorer)
    with Image.open(tmp_path / "out.png") as picture:
        assert picture.info["icc_profile"] == profile and picture.size == (18, 26)


@pytest.mark.parametrize("name", ["in.png", "in.mov"])
def test_transparency_is_refused_and_an_empty_alpha_channel_of_a_video_is_not(restorer, tmp_path, name):
    def make(alpha: int) -> Path:
        frame_HWC = np.full((16, 16, 4), 90, np.uint8)
        frame_HWC[..., 3] = alpha
        if name.endswith("png"):
            Image.fromarray(frame_HWC).save(tmp_path / name)
        else:
            with av.open(str(tmp_path / name), "w") as container:
                stream = container.add_stream("png", rate=25)
                stream.height, stream.width, stream.pix_fmt = 16, 16, "rgba"
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame_HWC, format="rgba")))
                container.mux(stream.encode())
        return tmp_path / name

    target = tmp_path / f"out{Path(name).suffix}"
    with pytest.raises(InputError, match="alpha channel"):
        restore(make(128), target, model=restorer)
    assert not target.exists()
    if name.endswith("mov"):
        restore(make(255), target, model=restorer)
        assert target.exists()


# --- Progress, cancelling, estimates ---


def test_progress_is_told_and_cancelling_leaves_nothing_under_the_final_name(restorer, video, tmp_path):
    told, target = [], tmp_path / "out.mp4"
    options = dict(scale=1, model=restorer, chunk=5, overlap=1)
    restore(video(20), target, on_progress=lambda *report: told.append(report), **options)
    assert [done for done, _, _ in told] == [4, 8, 12, 16, 20] and {total for _, total, _ in told} == {20}
    assert told[-1][2] == 0 and told[0][2] > 0
    target.unlink()
    told.clear()
    with pytest.raises(Cancelled):
        restore(
            video(20),
            target,
            on_progress=lambda *report: told.append(report),
            cancelled=lambda: len(told) > 1,
            **options,
        )
    assert not target.exists() and [path.name for path in tmp_path.iterdir()] == ["out.mp4.partial"]


def test_a_dry_run_writes_nothing_and_checks_everything(restorer, video, tmp_path):
    summary = restore(video(20), tmp_path / "out.mp4", model=restorer, dry_run=True)
    assert (summary.clips, summary.frames, summary.height, summary.width) == (1, 20, 32, 40)
    assert summary.total_seconds > 0 and summary.needed_bytes > 0
    assert not list(tmp_path.iterdir())
    with pytest.raises(InputError, match="unknown suffix"):
        restore(video(20), tmp_path / "out.xyz", model=restorer, dry_run=True)


@pytest.mark.slow
@pytest.mark.parametrize("color", ["wavelet", "lab", "adain"])
def test_the_mean_colour_of_real_footage_stays(tmp_path, color):
    """Within 1/255 in every chunk for the wavelet fix; the others are held to 2."""
    if not (CLIPS / "nasa_13013.mp4").exists():
        pytest.skip("the real footage is not beside the repository")
    from seedvr2_lab.restore import Restorer

    reader = VideoReader(CLIPS / "nasa_13013.mp4")
    frames = [
        torch.from_numpy(frame).permute(2, 0, 1)[:, 60:132, 100:196] / 255 for frame, _ in reader.frames(150, 172)
    ]
    restored = Restorer.load("tiny")(torch.stack(frames, 1), (144, 192), color=color, chunk=9)
    for start in range(0, 22, 6):
        low, high = torch.stack(frames, 1)[:, start : start + 6], restored[:, start : start + 6]
        difference = (high.mean((1, 2, 3)) - low.mean((1, 2, 3))).abs().max()
        print(f"{color}, frames {start}-: {255 * difference:.3f} of 255")
        assert 255 * difference < (1 if color == "wavelet" else 2)
