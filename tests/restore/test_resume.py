"""Whatever interrupts a run, another one goes on to the same frames."""

import random
import shutil
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from seedvr2_lab.console import InputError
from seedvr2_lab.restore import Cancelled, Restorer, restore
from seedvr2_lab.restore.partial import partial_folder

KILLS = 10
OPTIONS = dict(scale=3, chunk=7, overlap=3, seed=2)  # chunks begin every 4 frames
FRAMES = 41


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, video, restorer, pixels):
    target = tmp_path_factory.mktemp("unbroken") / "out.mp4"
    restore(video(FRAMES, 16, 16), target, model=restorer, **OPTIONS)
    return pixels(target)


def begin(source: Path, target: Path, model: Path, resume: bool = False) -> None:
    """What a process does that will be killed."""
    restore(source, target, model=Restorer.load(model), resume=resume, **OPTIONS)


def test_a_cancelled_run_goes_on_to_the_same_frames(restorer, video, tmp_path, unbroken, pixels):
    source, target = video(FRAMES, 16, 16), tmp_path / "out.mp4"
    stops, finished = [1, 1, 3, 0], []
    for stop in stops:
        told = []
        with pytest.raises(Cancelled):
            restore(
                source,
                target,
                model=restorer,
                resume=True,
                on_progress=lambda done, total, left, told=told: told.append(done),
                cancelled=lambda told=told, stop=stop: len(told) > stop,
                **OPTIONS,
            )
        assert not target.exists()
        finished.append(told[0])
    assert finished == sorted(finished) and finished[-1] > 4  # each run began where the one before was
    summary = restore(source, target, model=restorer, resume=True, **OPTIONS)
    assert summary.frames == FRAMES
    assert np.array_equal(pixels(target), unbroken)
    assert list(tmp_path.iterdir()) == [target]


@pytest.fixture
def half_done(restorer, video, tmp_path):
    """The source and the target of a run that was cancelled after some chunks."""
    source, target, told = video(FRAMES, 16, 16), tmp_path / "out.mp4", []
    with pytest.raises(Cancelled):
        restore(
            source,
            target,
            model=restorer,
            on_progress=lambda *report: told.append(report),
            cancelled=lambda: len(told) > 4,
            **OPTIONS,
        )
    return source, target


def test_an_unfinished_run_is_neither_lost_nor_mixed_with_another(half_done, restorer):
    source, target = half_done
    with pytest.raises(InputError, match=r"unfinished run: go on with --resume, or start anew with --overwrite"):
        restore(source, target, model=restorer, **OPTIONS)
    for change in (dict(seed=3), dict(strength=0.5), dict(scale=2), dict(start=0.1), dict(color="none")):
        with pytest.raises(InputError, match="begun with another"):
            restore(source, target, model=restorer, resume=True, **OPTIONS | change)
    assert len(list(partial_folder(target).glob("*.mkv"))) > 1
    restore(source, target, model=restorer, overwrite=True, **OPTIONS | dict(seed=3))
    assert target.exists() and not partial_folder(target).exists()


@pytest.mark.parametrize("damage", ["cut", "empty", "lost", "list", "job"])
def test_what_power_failures_leave_is_restored_again(half_done, restorer, unbroken, pixels, damage):
    source, target = half_done
    folder = partial_folder(target)
    video = sorted(folder.glob("*.mkv"))[1]
    if damage == "cut":
        video.write_bytes(video.read_bytes()[:-200])
    elif damage == "empty":
        video.write_bytes(b"")
    elif damage == "lost":
        video.unlink()
    elif damage == "list":
        video.with_suffix(".json").write_text("[")
    else:
        (folder / "job.json").write_text("")
    (folder / ".out.123.partial.mp4").write_text("half a film")
    restore(source, target, model=restorer, resume=True, **OPTIONS)
    assert np.array_equal(pixels(target), unbroken)
    assert not folder.exists()


def test_frames_that_nobody_knows_the_settings_of_are_not_mixed_in(half_done, restorer, unbroken, pixels):
    source, target = half_done
    (partial_folder(target) / "job.json").write_text("")
    restore(source, target, model=restorer, resume=True, **OPTIONS | {"strength": 0.0})
    whole = target.with_name("whole.mp4")
    restore(source, whole, model=restorer, **OPTIONS | {"strength": 0.0})
    assert np.array_equal(pixels(target), pixels(whole)) and not np.array_equal(pixels(target), unbroken)


@pytest.mark.slow
def test_a_run_killed_at_any_moment_goes_on_to_the_same_frames(video, model_file, tmp_path, unbroken, pixels):
    """Ten runs, each killed once without warning at a random moment and then resumed."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["seedvr2_lab.restore"])
    source, moments, kept = video(FRAMES, 16, 16), random.Random(0), []
    duration = None
    for kill in range(-1, KILLS):
        target = tmp_path / f"{kill}" / "out.mp4"
        target.parent.mkdir()
        process = context.Process(target=begin, args=(source, target, model_file))
        process.start()
        while not partial_folder(target).exists() and process.is_alive():
            time.sleep(0.005)
        since = time.monotonic()
        if duration is None:
            process.join()
            duration = time.monotonic() - since
            continue
        time.sleep(moments.uniform(0, 0.95 * duration))
        process.kill()
        process.join()
        if not target.exists():
            assert partial_folder(target).exists()
            kept.append(len(list(partial_folder(target).glob("*.mkv"))))
            resumed = context.Process(target=begin, args=(source, target, model_file, True))
            resumed.start()
            resumed.join()
        assert np.array_equal(pixels(target), unbroken)
        shutil.rmtree(target.parent)
    print(f"runs of frames that were kept: {kept} of {-(-FRAMES // 4)}")
    assert len(kept) >= KILLS // 2 and len(set(kept)) > 2
