"""The widgets without a browser: every control is driven through its traits, every state is read back."""

import re
import time
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from PIL import Image

from seedvr2_lab.console import InputError
from seedvr2_lab.lab.widgets import Choices, RestoreDemo, WindowInspector, demo, pipeline, render_windows
from seedvr2_lab.lab.widgets.inspector import RESOLUTIONS, SCHEMES, token_grid, windows_picture
from seedvr2_lab.lab.widgets.pipeline import AS_IT_IS, BY_HAND
from seedvr2_lab.media.degrade import PRESETS, degrade_file
from seedvr2_lab.media.video import VideoReader
from seedvr2_lab.media.video_writer import VideoWriter
from seedvr2_lab.metrics import psnr
from seedvr2_lab.model.windows import partition
from seedvr2_lab.restore.watch import STATM

ROOT = Path(__file__).parents[2]
PICTURE = np.random.default_rng(0).random((60, 90, 3))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(pipeline, "BUNDLED_SIZE", (64, 96))


@pytest.fixture
def clip(tmp_path):
    path, random = tmp_path / "my clip.mp4", np.random.default_rng(1)
    with VideoWriter(path, 24, 40, rate=10) as writer:
        writer.write(random.integers(0, 256, (4, 24, 40, 3), dtype=np.uint8))
    return path


def decoded(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(jpeg)))


def send(widget: RestoreDemo, name: str, content: bytes) -> None:
    widget._receive(widget.upload, {"kind": "file", "name": name}, [memoryview(content)])


def test_a_restoration_from_controls_to_saved_file(tmp_path):
    widget = RestoreDemo(Choices(frames=3))
    assert [version["name"] for version in widget.compare.versions] == ["input, bicubic", "original"]
    assert widget.save_button.disabled and "ready" in widget.status.value
    widget.restore_now()
    assert "done: 3 frames of 96×64" in widget.status.value
    assert (widget.compare.left, widget.compare.right) == (0, 2) and widget.progress.value == 1
    assert not widget.run_button.disabled and widget.cancel_button.disabled
    assert all(decoded(jpeg).shape == (64, 96, 3) for each in widget.compare.versions for jpeg in each["frames"])
    for phase in ("encode", "decode", "memory"):  # what takes next to no time is not shown
        assert phase in widget.details.value
    held = {phase: memory for phase, _, memory in pipeline.render_timing(widget.result)}
    assert held["decode"].endswith("GiB") == STATM.exists() and held["in all"].endswith("GiB")

    widget.save_as.value = str(tmp_path / "restored.mp4")
    widget.save_button.click()
    assert f"saved {tmp_path}" in widget.status.value
    assert VideoReader(tmp_path / "restored.mp4").info.frames == 3
    saved = (tmp_path / "restored.mp4").read_bytes()
    widget.save_button.click()
    assert "exists: give another name" in widget.status.value and (tmp_path / "restored.mp4").read_bytes() == saved
    widget.save_as.value = "restored.txt"
    widget.save_button.click()
    assert "end the name in .mp4" in widget.status.value

    first = widget.compare.versions[2]
    widget.strength.value = 0.0  # the same clip: both results stay and can be compared
    widget.restore_now()
    assert widget.compare.versions[2] == first and widget.compare.versions[3]["name"].startswith("2: tiny, strength 0")
    assert widget.compare.versions[3]["frames"] != first["frames"]
    plain, bicubic = (widget.compare.versions[i]["scores"]["psnr"] for i in (3, 0))
    assert abs(plain - bicubic) < 1  # strength 0 is the plain resize, and a little H.264
    widget.frames.value = 2  # another clip
    widget.restore_now()
    assert len(widget.compare.versions) == 3 and len(widget.compare.places) == 2
    figure = widget.picture()
    assert figure.axes[2].get_title("left").startswith("3: tiny")


def test_scores_are_those_of_the_pixels():
    version_of = np.random.default_rng(2).integers(0, 256, (3, 32, 48, 3), dtype=np.uint8)
    truth = np.clip(version_of.astype(int) + 9, 0, 255).astype(np.uint8)
    prepared = pipeline.Prepared(Choices(), None, truth, truth, [], None, None, {})
    version = pipeline.render_version("x", version_of, prepared)
    clips = [torch.from_numpy(each).permute(3, 0, 1, 2) / 255 for each in (version_of, truth)]
    assert version.scores["psnr"] == pytest.approx(psnr(*clips))
    assert [each["psnr"] for each in version.frame_scores] == pytest.approx(
        [psnr(clips[0][:, t], clips[1][:, t]) for t in range(3)]
    )
    same = pipeline.render_version("same", truth, prepared)
    assert same.scores["psnr"] is None and same.scores["ssim"] == pytest.approx(1)  # infinity is no JSON
    assert pipeline.render_version("larger", np.zeros((3, 64, 96, 3), np.uint8), prepared).scores == {}


def test_every_control_reaches_the_choices():
    widget = RestoreDemo(Choices(frames=1))
    wanted = dict(frames=2, blur=2.0, noise=0.05, jpeg=33, shrink=2, seed=7, model="3b", scale=2.0, strength=0.25)
    for name, value in wanted.items():
        getattr(widget, name).value = value
    widget.color.value, widget.clip.value = "none", "flower"
    assert widget.choices() == Choices("flower", color="none", **wanted)
    assert widget._file_row.layout.display == "none" and widget.blur.layout.display == ""
    widget.clip.value, widget.degradation.value = demo.FILE, AS_IT_IS
    assert widget._file_row.layout.display == "" and widget.blur.layout.display == "none"
    assert widget.shrink.layout.display == "none"
    for kind in (BY_HAND, *PRESETS):
        widget.degradation.value = kind
        widget.path.value = " /x.mp4 "
        assert widget.choices().degradation == kind and widget.choices().clip == "/x.mp4"


@pytest.mark.parametrize(
    "change", [dict(blur=3.0), dict(noise=0.1), dict(jpeg=10), dict(seed=1), dict(degradation="light")]
)
def test_every_degradation_control_changes_the_input(change, tmp_path):
    before, after = (pipeline.prepare(Choices(frames=2, **each), tmp_path).low_THWC for each in ({}, change))
    assert before.shape == after.shape and (before != after).any()


def test_a_file_as_it_is_goes_to_the_restorer_untouched(clip):
    widget = RestoreDemo(Choices(str(clip), frames=3, degradation=AS_IT_IS, scale=2))
    assert [version["name"] for version in widget.compare.versions] == ["input, bicubic"]
    widget.show_code.value = True
    widget.restore_now()
    assert "done: 3 frames of 80×48" in widget.status.value
    assert widget.compare.versions[1]["scores"] == {}  # no original, no scores
    assert f"&#x27;{clip}&#x27; restored.mp4 --model tiny --scale 2" in widget.code.value
    assert "--end 0.25" in widget.code.value and "end=0.25" in widget.code.value
    widget.show_code.value = False
    assert widget.code.layout.display == "none"


def test_the_commands_do_what_the_demo_did(clip, tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    choices = Choices(str(clip), frames=4, degradation="light", shrink=2, scale=2, seed=5)
    prepared = pipeline.prepare(choices, folder)
    result = pipeline.restored(prepared, choices, folder / "result.mp4")
    again = tmp_path / "again.mkv"
    degrade_file(clip, again, preset="light", scale=2, seed=5)
    read = np.stack([frame for frame, _ in VideoReader(again)])
    assert (read == prepared.low_THWC).all()
    code = pipeline.python_code(prepared, choices, str(tmp_path / "by_code.mp4"))
    exec(code, {})
    repeated = np.stack([frame for frame, _ in VideoReader(tmp_path / "by_code.mp4")])
    assert (repeated == result.pixels_THWC).all()
    shell = pipeline.shell_code(prepared, choices, "out.mp4")
    assert "seedvr2-lab degrade" in shell and "--preset light --scale 2 --seed 5" in shell


def test_cancel_during_a_run(monkeypatch):
    widget = RestoreDemo(Choices(frames=3))
    shown = widget.compare.versions
    reached, real = [], pipeline.restore

    def restore(*arguments, cancelled, **options):
        reached.append(True)
        while not cancelled():  # as long as the user waits
            time.sleep(0.01)
        return real(*arguments, cancelled=cancelled, **options)

    monkeypatch.setattr(pipeline, "restore", restore)
    widget.run_button.click()
    while not reached and widget.running:
        time.sleep(0.01)
    assert widget.run_button.disabled and not widget.cancel_button.disabled
    widget.run_button.click()  # a second one changes nothing
    widget.cancel_button.click()
    widget._thread.join(60)
    assert not widget.running and "cancelled" in widget.status.value and widget.compare.versions == shown
    assert not widget.run_button.disabled and len(reached) == 1
    monkeypatch.setattr(pipeline, "restore", real)
    widget.restore_now()
    assert "done" in widget.status.value


@pytest.mark.parametrize("content", [b"not a video", b""], ids=["text", "empty"])
def test_bad_uploads_say_one_line_and_the_demo_stays_usable(content):
    widget = RestoreDemo(Choices(frames=1))
    send(widget, "../clip.mp4", content)
    assert widget.clip.value == demo.FILE and widget.path.value.endswith("/clip.mp4")
    assert ".." not in widget.path.value and "received clip.mp4" in widget.upload.message
    assert_usable_after_a_bad_run(widget)


def test_an_upload_without_frames(tmp_path):
    import av

    with av.open(str(tmp_path / "none.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuv420p"
        container.start_encoding()
    widget = RestoreDemo(Choices(frames=1))
    send(widget, "none.mp4", (tmp_path / "none.mp4").read_bytes())
    assert_usable_after_a_bad_run(widget)


def assert_usable_after_a_bad_run(widget):
    shown = widget.compare.versions
    widget.restore_now()
    assert "✗" in widget.status.value and "\n" not in widget.status.value and "Traceback" not in widget.status.value
    assert widget.compare.versions == shown and not widget.run_button.disabled
    widget.clip.value = "chelsea"
    widget.restore_now()
    assert "done: 1 frame of" in widget.status.value


@pytest.mark.parametrize("wrong", [dict(path=""), dict(path="/no/such.mp4"), dict(model="no such model")])
def test_wrong_choices_are_one_line(wrong):
    widget = RestoreDemo(Choices(frames=1))
    widget.progress.value = 1  # of the run before
    if "path" in wrong:
        widget.clip.value = demo.FILE
    for name, value in wrong.items():
        getattr(widget, name).value = value
    widget.restore_now()
    assert "✗" in widget.status.value and "Error" not in widget.status.value  # told as a user's mistake
    assert widget.progress.value == 0
    with pytest.raises(InputError):
        Choices(frames=0)


def test_large_clips_are_shown_scaled_and_thinned(monkeypatch):
    monkeypatch.setattr(pipeline, "SHOWN_PIXELS", 4 * 32 * 48 // 4)
    monkeypatch.setattr(pipeline, "SHOWN_FRAMES", 4)
    pixels = np.zeros((9, 32, 48, 3), np.uint8)
    prepared = pipeline.Prepared(Choices(), None, pixels, None, [], None, None, {})
    version = pipeline.render_version("large", pixels, prepared)
    assert prepared.places == [0, 3, 5, 8]
    assert [decoded(jpeg).shape for jpeg in version.frames] == [(16, 24, 3)] * 4


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("shifted", [False, True])
def test_window_states_cover_the_frame_once(scheme, shifted):
    grid = token_grid((480, 848), 97)
    assert grid == (25, 30, 53)
    state = render_windows(grid, SCHEMES[scheme], shifted, at=3)
    seen = np.zeros(grid, int)
    for t0, t1, h0, h1, w0, w1 in state["windows"]:
        seen[t0:t1, h0:h1, w0:w1] += 1
    assert (seen[3] == 1).all()
    assert state["tokens"] == [(b - a) * (d - c) * (f - e) for a, b, c, d, e, f in state["windows"]]
    windows = partition(grid, SCHEMES[scheme], shifted)
    assert sum(count for *_, count in state["columns"]) == len(windows)
    assert f"{len(windows)} windows" in state["summary"]


def test_every_control_of_the_inspector():
    widget = WindowInspector(PICTURE)
    assert widget.view.grid == [25, 45, 80] and len(widget.view.state["windows"]) == 9
    widget.view.window = 4
    widget.layer.value = True
    assert len(widget.view.state["windows"]) == 16 and widget.view.window == -1
    widget.scheme.value = "global"
    assert widget.view.state["windows"] == [[0, 25, 0, 45, 0, 80]]
    widget.scheme.value, widget.at.value = "adaptive", 24
    widget.frames.value = 9  # the frame that was looked at is beyond the end now
    assert widget.view.grid[0] == 3 and widget.at.max == 2 and widget.at.value == 2
    for size in RESOLUTIONS.values():
        widget.resolution.value = size
        height, width = decoded(widget.view.picture).shape[:2]
        assert width / height == pytest.approx(widget.view.grid[2] / widget.view.grid[1], rel=0.01)


def test_the_inspectors_static_twin_draws_the_same_windows():
    grid = (3, 30, 53)
    figure = windows_picture(PICTURE, grid, SCHEMES["adaptive"], True, at=1)
    state = render_windows(grid, SCHEMES["adaptive"], True, at=1)
    left, right = figure.axes
    assert len(left.patches) == len(state["windows"])
    assert [bar.get_height() for bar in right.patches] == [count for *_, count in state["columns"]]


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")), ids=lambda path: path.stem)
def test_a_figure_follows_every_widget(path):
    """Reports and viewers run no widgets."""
    sources = [cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    for source, following in pairwise(sources):
        if re.search(r"\b(RestoreDemo|WindowInspector|ClaimExplorer)\(", source):
            assert following.splitlines()[-1] == "figure" or "display(render_" in following
