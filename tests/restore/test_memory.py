"""Memory: bounded in length, estimated before it is used, refused with advice that holds."""

import re
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seedvr2_lab.console import InputError
from seedvr2_lab.restore import Settings, memory, restore
from seedvr2_lab.restore.restorer import Restorer
from seedvr2_lab.restore.watch import STATM, Watch

PEAK = """
import re, sys
from pathlib import Path
import torch
from seedvr2_lab.restore import Restorer, Settings, memory, restore

def held(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

"""
NEEDS = """
restorer, size, how = Restorer.load("tiny"), (int(sys.argv[1]), int(sys.argv[2])), Settings(chunk=int(sys.argv[3]))
restorer(torch.rand(3, 1, 8, 8), (32, 32))
before = held("VmRSS")
for _ in restorer.stream(torch.rand(how.chunk, 3, 24, 24), size, how):
    pass
print(memory.needed(restorer, size, how.chunk, how), held("VmHWM") - before)
"""
PUBLISHED = """
from seedvr2_lab.config import transformer_config, vae_config
from seedvr2_lab.model.dit import DiT
from seedvr2_lab.model.vae import VideoVAE
from seedvr2_lab.model.weights import Generator
layout, size, how = sys.argv[1], (int(sys.argv[2]), int(sys.argv[3])), Settings(chunk=int(sys.argv[4]))
config = transformer_config(layout, layers=2)  # what layers hold is dropped before the next one runs
dit, text = DiT(config).bfloat16().eval(), torch.zeros(58, config.text_channels, dtype=torch.bfloat16)
vae = VideoVAE(vae_config("published")).bfloat16().eval()
restorer = Restorer(Generator(dit, text, noise_scale=1.0, vae="published"), vae)
restorer(torch.rand(3, 1, 8, 8), (32, 32))
before = held("VmRSS")
for _ in restorer.stream(torch.rand(how.chunk, 3, 24, 24), size, how):
    pass
print(memory.needed(restorer, size, how.chunk, how), held("VmHWM") - before)
"""
LENGTH = """
restorer = Restorer.load(sys.argv[1])
restorer(torch.rand(3, 1, 8, 8), (32, 32))
before = held("VmRSS")
restore(sys.argv[2], sys.argv[3], scale=8, model=restorer, chunk=9, overlap=1)
print(held("VmHWM"), held("VmHWM") - before)
"""


def measured(code: str, *arguments) -> list[int]:
    if not sys.platform.startswith("linux"):
        pytest.skip("needs Linux's /proc")
    command = [sys.executable, "-c", PEAK + code, *map(str, arguments)]
    return [int(word) for word in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()]


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width", "chunk"), [(180, 320, 5), (240, 240, 1), (96, 160, 17)])
def test_the_estimate_is_near_what_is_used(height, width, chunk):
    needed, used = measured(NEEDS, height, width, chunk)
    print(f"{width}x{height}, chunks of {chunk}: {needed / 1e6:.0f} MB estimated, {used / 1e6:.0f} MB used")
    assert 0.95 * used < needed < 2.5 * used


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "height", "width", "chunk"), [("3b", 256, 256, 5), ("7b", 256, 256, 5), ("3b", 320, 480, 1)]
)
def test_the_estimate_holds_for_the_published_layouts(layout, height, width, chunk):
    """At their full width, with random weights and two layers."""
    needed, used = measured(PUBLISHED, layout, height, width, chunk)
    print(f"{layout}, {width}x{height}, chunks of {chunk}: {needed / 1e6:.0f} MB estimated, {used / 1e6:.0f} MB used")
    assert 0.95 * used < needed < 2.5 * used


@pytest.mark.slow
def test_twenty_times_the_frames_need_no_more_memory(video, model_file, tmp_path):
    short, long = (
        measured(LENGTH, model_file, video(frames, 12, 16), tmp_path / f"{frames}.mp4") for frames in (18, 360)
    )
    print(f"peak {short[0] / 1e6:.0f} and {long[0] / 1e6:.0f} MB, without what was there before "
          f"{short[1] / 1e6:.0f} and {long[1] / 1e6:.0f} MB")  # fmt: skip
    assert long[0] <= 1.1 * short[0]


def test_what_does_not_fit_is_refused_before_any_work(restorer, video, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda device: 30_000_000)
    with pytest.raises(InputError, match=r"400x320 needs about .* GB of memory and 0.0 GB are free: try --"):
        restore(video(20), tmp_path / "out.mp4", height=320, model=restorer)
    assert not list(tmp_path.iterdir())


@settings(max_examples=25, deadline=None)
@given(st.integers(200, 3000), st.integers(200, 3000), st.floats(0.05, 1))
def test_the_advice_fits(restorer, height, width, share):
    how = Settings(chunk=17)
    room = int(share * memory.needed(restorer, (height, width), 60, how))
    hint = memory.advice(restorer, (height, width), 60, how, room)
    options = {name: int(value) for name, value in re.findall(r"--(chunk|tile) (\d+)", hint)}
    if options:
        assert memory.needed(restorer, (height, width), 60, replace(how, **options)) < room
    else:
        assert "smaller size" in hint
        assert memory.needed(restorer, (height, width), 60, Settings(chunk=1, tile=128)) >= room


def test_less_is_estimated_for_smaller_chunks_tiles_and_sizes(restorer):
    def needs(size=(480, 640), **how):
        return memory.needed(restorer, size, 60, Settings(**how))

    assert needs(chunk=5) < needs(chunk=9) < needs()
    assert needs(tile=128) <= needs(tile=256) < needs()
    assert needs((240, 640)) < needs()
    assert needs(strength=0.0) < needs()


def test_running_out_of_memory_ends_in_advice(restorer, video, tmp_path, monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")

    monkeypatch.setattr(Restorer, "_decode", fail)
    with pytest.raises(InputError, match=r"80x64 did not fit into the memory of cpu: (try --|no chunk)"):
        restore(video(20), tmp_path / "out.mp4", height=64, model=restorer)
    assert not (tmp_path / "out.mp4").exists()


@pytest.mark.parametrize(
    ("line", "files", "room"),
    [
        ("0::/a/b", {"a/memory.max": 1000, "a/memory.current": 700, "a/b/memory.max": "max"}, 300),
        ("0::/", {"memory.max": 1000, "memory.current": 700, "memory.stat": "anon 1\ninactive_file 200"}, 500),
        ("4:memory:/x", {"memory/memory.limit_in_bytes": 900, "memory/memory.usage_in_bytes": 1000}, 0),
        ("0::/", {}, None),
        ("2:cpu,cpuacct:/", {"memory/memory.limit_in_bytes": 900}, None),
    ],
)  # fmt: skip
def test_the_room_that_control_groups_leave(tmp_path, line, files, room):
    for name, content in files.items():
        path = tmp_path / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
        if not (path.parent / "memory.stat").exists():
            (path.parent / "memory.stat").write_text("anon 1\n")
    (tmp_path / "own").write_text(line + "\n")
    assert memory._control_group(tmp_path / "groups", tmp_path / "own") == room


on_linux = pytest.mark.skipif(not STATM.exists(), reason="elsewhere only the highest value of a process's life is told")


@on_linux
def test_what_is_held_during_a_phase_is_seen_after_it_is_freed():
    with Watch("cpu") as watch:
        before = watch.lap()
        block = np.ones(200_000_000, np.uint8)
        time.sleep(0.1)  # for a few looks
        del block
        most, after = watch.lap(), watch.lap()
    assert 150e6 < most - before < 250e6 and after < most - 150e6
    assert watch.lap() == 0 and not watch._thread.is_alive()


@on_linux
def test_the_summary_tells_what_each_phase_held(restorer, video, tmp_path):
    summary = restore(video(5, 24, 32), tmp_path / "out.mp4", scale=1, model=restorer)
    assert {"encode", "generate", "decode", "color"} <= set(summary.held_bytes)
    assert 0 < max(summary.held_bytes.values()) <= summary.peak_bytes
