"""Benchmarks and pairs: layouts and their faults, figures by a second method, going on after a stop, the table."""

import hashlib
import json
import re
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from seedvr2_lab.cli import main
from seedvr2_lab.console import InputError
from seedvr2_lab.lab import benchmarks
from seedvr2_lab.lab.benchmark_sets import BENCHMARKS, find_pairs
from seedvr2_lab.lab.benchmarks import Protocol, evaluate_benchmarks, evaluate_pairs
from seedvr2_lab.lab.scores import benchmark_table, mean, score
from seedvr2_lab.media.clips import camera_clip, load_picture
from seedvr2_lab.media.compression import from_pixels, to_pixels
from seedvr2_lab.media.degrade import PRESETS, degrade, resize
from seedvr2_lab.media.video import VideoReader
from seedvr2_lab.media.video_writer import VideoWriter
from seedvr2_lab.restore import Restorer

SPMCS = {"000": (3, 48, 64), "001": (5, 50, 67)}  # frames, height, width
VIDEOLQ = {"000": (3, 24, 32), "001": (4, 17, 23)}


@pytest.fixture(autouse=True)
def fresh_clone(tmp_path, monkeypatch):
    """No weights of metrics, no network."""

    def refuse(*_):
        raise AssertionError("a connection was tried")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(socket.socket, "connect", refuse)


def clip(seed: int, frames: int, height: int, width: int) -> torch.Tensor:
    picture, random = load_picture("coffee"), torch.Generator().manual_seed(seed)
    return camera_clip(picture, frames, (height, width), random)


def save_frames(folder: Path, frames_CTHW: torch.Tensor, name: str = "{:08d}.png") -> None:
    folder.mkdir(parents=True)
    for t, frame in enumerate(frames_CTHW.unbind(1)):
        Image.fromarray(to_pixels(frame)).save(folder / name.format(t))


def read(path: Path) -> np.ndarray:
    """(T, H, W, 3)."""
    return np.stack([frame for frame, _ in VideoReader(path)])


def psnr(a_THWC: np.ndarray, b_THWC: np.ndarray) -> float:
    """The mean over frames, from 8-bit values."""
    errors = np.square(a_THWC.astype(float) - b_THWC).mean((1, 2, 3))
    return float(np.mean(10 * np.log10(255**2 / errors)))


@pytest.fixture(scope="module")
def pristine(tmp_path_factory):
    """A made-up SPMCS without twins and a made-up VideoLQ."""
    data = tmp_path_factory.mktemp("data")
    for seed, (name, shape) in enumerate(SPMCS.items()):
        save_frames(data / "SPMCS" / "gt" / name, clip(seed, *shape))
    for seed, (name, shape) in enumerate(VIDEOLQ.items()):
        save_frames(data / "VideoLQ" / "lq" / name, clip(seed, *shape))
    return data


@pytest.fixture
def data(pristine, tmp_path):
    return Path(shutil.copytree(pristine, tmp_path / "data"))


def with_twins(data: Path) -> Path:
    for name in SPMCS:
        high = torch.from_numpy(read(data / "SPMCS" / "gt" / name)).permute(3, 0, 1, 2) / 255
        low = degrade(high, torch.Generator().manual_seed(0))
        with VideoWriter(data / "SPMCS" / f"{name}.mkv", *low.shape[2:], rate=25, codec="lossless") as writer:
            writer.write(np.stack([to_pixels(frame) for frame in low.unbind(1)]))
    (data / "SPMCS" / "lq").mkdir()
    (data / "SPMCS" / "000.mkv").rename(data / "SPMCS" / "lq" / "0.mkv")  # numbers match by value
    (data / "SPMCS" / "001.mkv").rename(data / "SPMCS" / "lq" / "0001.mkv")
    return data


def test_from_a_fresh_clone_every_figure_is_a_number_or_says_why_not(data, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["evaluate", "--data", str(data), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    rows = {line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ") for line in printed.splitlines()[2:8]}
    assert list(rows) == list(BENCHMARKS)
    notes = dict(re.findall(r"^- \[(\d+)\] (unavailable: .+)$", printed, re.M))
    for _, _, _, *cells in rows.values():
        figures = [figure for cell in cells for figure in cell.split(" / ")]
        assert len(cells) == 5 and len(figures) in (11, 20)  # 3 notes for a missing benchmark, 3 x 4 figures else
        assert all(re.fullmatch(r"\d+\.\d+", figure) or figure.strip("[]") in notes for figure in figures)
    assert rows["SPMCS"][1] == "2 of 30, lq by preset paper" and rows["VideoLQ"][1] == "2 of 50"
    assert rows["SPMCS"][6] == "22.97 / 0.646 / 0.306 / 0.131" and rows["AIGC28"][6] == "3.801 / 62.99 / 0.561 / 15.77"
    assert "UDM10 is not there" in notes[rows["UDM10"][3].strip("[]")]
    assert "LPIPS" in notes[rows["SPMCS"][3].split(" / ")[2].strip("[]")]

    results = json.loads((out / "results.json").read_text())["benchmarks"]
    references, twins = [], []
    for name, (_, height, width) in SPMCS.items():
        references.append(read(data / "SPMCS" / "gt" / name)[:, : height // 4 * 4, : width // 4 * 4])
        twins.append(read(next((out / "SPMCS" / "lq").glob(f"{name}.*.mkv"))))
        seed = int(hashlib.sha256(f"SPMCS/{name}".encode()).hexdigest()[:8], 16)
        high = torch.from_numpy(references[-1]).permute(3, 0, 1, 2) / 255
        low = degrade(high, torch.Generator().manual_seed(seed), PRESETS["paper"])
        assert np.array_equal(twins[-1], (low * 255).round().byte().permute(1, 2, 3, 0).numpy())
    restorer = Restorer.load("tiny")

    def enlarged(low_THWC, size):
        low = torch.from_numpy(low_THWC).permute(0, 3, 1, 2) / 255
        frames = F.interpolate(low, size, mode="bicubic", antialias=True).clamp(0, 1)
        return (frames * 255).round().byte().permute(0, 2, 3, 1).numpy()

    def restored(low_THWC, size):
        frames = restorer(torch.from_numpy(low_THWC).permute(3, 0, 1, 2) / 255, size)
        return (frames * 255).round().byte().permute(1, 2, 3, 0).numpy()

    for method, run in {"bicubic": enlarged, "tiny": restored}.items():
        expected = [psnr(run(low, high.shape[1:3]), high) for low, high in zip(twins, references, strict=True)]
        found = [results["SPMCS"]["by_clip"][name][method]["psnr"] for name in SPMCS]
        assert found == pytest.approx(expected, abs=1e-3)
        assert results["SPMCS"]["figures"][method]["psnr"] == pytest.approx(np.mean(expected), abs=1e-3)


def test_given_twins_are_used_as_they_are(data, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["evaluate", "SPMCS", "--data", str(with_twins(data)), "--out", str(out)]) == 0
    table = capsys.readouterr().out
    assert "| 2 of 30 |" in table and "VideoLQ" not in table
    assert sorted(path.suffix for path in (out / "SPMCS").rglob("*")) == [".json"] * 6
    low, high = read(data / "SPMCS" / "lq" / "0.mkv"), read(data / "SPMCS" / "gt" / "000")
    pictures = [Image.fromarray(frame).resize((64, 48), Image.Resampling.LANCZOS) for frame in low]
    results = json.loads((out / "results.json").read_text())["benchmarks"]["SPMCS"]
    assert not results["made"]
    assert results["by_clip"]["000"]["Lanczos"]["psnr"] == pytest.approx(psnr(np.stack(pictures), high), abs=1e-6)


def test_a_killed_run_goes_on_with_the_next_clip(data, tmp_path, monkeypatch):
    undisturbed = evaluate_benchmarks(data, out=tmp_path / "undisturbed")
    out, runs = tmp_path / "out", []

    def count(name, killed_at=None):
        run = getattr(benchmarks, name)

        def counting(clip_CTHW, size):
            if len(runs) == killed_at:
                raise KeyboardInterrupt
            runs.append(name)
            return run(clip_CTHW, size)

        return counting

    with monkeypatch.context() as patch:
        patch.setattr(benchmarks, "lanczos", count("lanczos", killed_at=3))
        patch.setattr(benchmarks, "bicubic", count("bicubic"))
        with pytest.raises(KeyboardInterrupt):
            evaluate_benchmarks(data, out=out)
        assert runs == ["bicubic", "lanczos", "bicubic"]
        assert len(list(out.rglob("*.json"))) == 4 and not (out / "results.json").exists()  # tiny's first clip beside
    runs.clear()
    with monkeypatch.context() as patch:
        patch.setattr(benchmarks, "lanczos", count("lanczos"))
        patch.setattr(benchmarks, "bicubic", count("bicubic"))
        assert evaluate_benchmarks(data, out=out) == undisturbed
        assert runs == ["lanczos"] + ["bicubic", "lanczos"] * len(VIDEOLQ)
        runs.clear()
        assert evaluate_benchmarks(data, out=out) == undisturbed and not runs
        kept = [path for path in out.rglob("*") if path.parent != out / "locks"]
        assert not [path for path in kept if path.suffix not in ("", ".json", ".mkv")]  # nothing half-written


def test_what_decides_a_figure_decides_whether_it_is_measured_again(data, tmp_path, monkeypatch):
    out = tmp_path / "out"

    def measured() -> int:
        before = len(list((out / "VideoLQ").glob("*.json")))
        evaluate_benchmarks(data, ["VideoLQ"], out)
        return len(list((out / "VideoLQ").glob("*.json"))) - before

    assert (measured(), measured()) == (6, 0)
    save_frames(tmp_path / "other", clip(7, 1, *VIDEOLQ["001"][1:]))
    (tmp_path / "other" / "00000000.png").replace(data / "VideoLQ" / "lq" / "001" / "00000000.png")
    assert (measured(), measured()) == (3, 0)  # one of two clips, three methods
    with monkeypatch.context() as patch:
        patch.setattr(benchmarks, "PROTOCOL", Protocol(seed=1))
        assert measured() == 6
    with monkeypatch.context() as patch:
        patch.setattr(benchmarks, "problem", lambda file, root: "")  # the weights of metrics have come
        assert measured() == 6
    with monkeypatch.context() as patch:
        patch.setattr(benchmarks, "fingerprint", lambda restorer: "another model")
        assert measured() == 2


def test_the_fingerprint_is_of_all_weights_and_settings():
    restorer = Restorer.load("tiny")
    first = benchmarks.fingerprint(restorer)
    assert benchmarks.fingerprint(Restorer.load("tiny")) == first
    restorer.generator.text[0, 0] += 1
    second = benchmarks.fingerprint(restorer)
    next(iter(restorer.vae.parameters())).data.flatten()[0] += 1
    third = benchmarks.fingerprint(restorer)
    restorer.generator = restorer.generator._replace(noise_scale=restorer.generator.noise_scale / 2)
    assert len({first, second, third, benchmarks.fingerprint(restorer)}) == 4


def test_large_originals_are_reduced_before_they_are_degraded(data, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks, "PROTOCOL", Protocol(short_side=36))
    evaluate_benchmarks(data, ["SPMCS"], tmp_path)
    reduced, low = (read(next((tmp_path / "SPMCS" / kind).glob("000.*.mkv"))) for kind in ("gt", "lq"))
    high = torch.from_numpy(read(data / "SPMCS" / "gt" / "000")).permute(0, 3, 1, 2) / 255
    assert np.array_equal(reduced, (resize(high, (36, 48)) * 255).round().byte().permute(0, 2, 3, 1).numpy())
    assert low.shape == (3, 9, 12, 3)


def test_found_footage_grows_up_to_a_limit(data, tmp_path, monkeypatch):
    sizes = []
    monkeypatch.setattr(benchmarks, "bicubic", lambda low, size: sizes.append(size) or resize(low, size))
    monkeypatch.setattr(benchmarks, "PROTOCOL", Protocol(found_side=72))
    evaluate_benchmarks(data, ["VideoLQ"], tmp_path)
    assert sizes == [(72, 96), (68, 92)]


def faulty(data: Path, fault: str) -> tuple[list[str], tuple[str, ...]]:
    """Break a layout; the arguments to give and the words to expect."""
    gt, lq = data / "SPMCS" / "gt", data / "SPMCS" / "lq"
    if fault == "no such benchmark":
        return ["SPMCX"], ("'SPMCX'", "VideoLQ")
    if fault == "benchmark is missing":
        return ["UDM10"], (str(data / "UDM10"), "--layout")
    if fault == "no benchmark at all":
        shutil.rmtree(data)
        return [], (str(data), "--layout")
    if fault == "gt is missing":
        shutil.rmtree(gt)
        return [], (str(gt), "--layout")
    if fault == "lq is missing":
        shutil.rmtree(data / "VideoLQ" / "lq")
        return [], (str(data / "VideoLQ" / "lq"), "--layout")
    if fault == "empty folder":
        shutil.rmtree(gt)
        gt.mkdir()
        return [], (str(gt), "empty")
    if fault == "clip without frames":
        (gt / "002").mkdir()
        return [], (str(gt / "002"), "no frames")
    if fault == "no video":
        (gt / "notes.txt").write_text("hello\n")
        return [], (str(gt / "notes.txt"),)
    if fault == "frames of two sizes":
        Image.new("RGB", (8, 8)).save(gt / "000" / "99.png")
        return [], (str(gt / "000" / "99.png"), "8x8")
    with_twins(data)
    if fault == "unequal names":
        (lq / "0.mkv").rename(lq / "7.mkv")
        return [], ("7.mkv", str(lq))
    if fault == "one name twice":
        shutil.copyfile(lq / "0.mkv", lq / "00.mkv")
        return [], ("0.mkv", "00.mkv")
    if fault == "unequal counts":
        (gt / "000" / "00000002.png").unlink()
        return [], (str(lq / "0.mkv"), "3 frames", " 2:")
    if fault == "unequal sizes":
        shutil.rmtree(gt / "000")
        save_frames(gt / "000", clip(0, 3, 48, 68))
        return [], (str(lq / "0.mkv"), "68x48", "x4")
    raise ValueError(fault)


@pytest.mark.parametrize(
    "fault",
    [
        "no such benchmark",
        "benchmark is missing",
        "no benchmark at all",
        "gt is missing",
        "lq is missing",
        "empty folder",
        "clip without frames",
        "no video",
        "frames of two sizes",
        "unequal names",
        "one name twice",
        "unequal counts",
        "unequal sizes",
    ],
)
def test_a_faulty_layout_is_one_line_and_status_2(data, tmp_path, capsys, fault):
    names, words = faulty(data, fault)
    assert main(["evaluate", *names, "--data", str(data), "--out", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and all(word in lines[0] for word in words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["SPMCS"], "--data"),
        (["--data", "DATA", "--out", "DATA/file/out"], "--out"),
        (["--data", "DATA", "--restored", "DATA", "--reference", "DATA"], "--data"),
        (["--restored", "DATA/SPMCS/gt"], "--reference"),
        (["--restored", "DATA/SPMCS/gt", "--reference", "DATA/nowhere"], "nowhere"),
        (["--restored", "DATA/file", "--reference", "DATA/nowhere"], "nowhere"),
    ],
)
def test_arguments_that_do_not_fit_are_one_line_and_status_2(data, capsys, arguments, word):
    shutil.copyfile(data / "SPMCS" / "gt" / "000" / "00000000.png", data / "file")
    assert main(["evaluate", *(argument.replace("DATA", str(data)) for argument in arguments)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and word in lines[0]


def test_the_layout_is_printed(capsys):
    assert main(["evaluate", "--layout"]) == 0
    printed = capsys.readouterr().out
    assert all(f"DATA/{name}" in printed for name in BENCHMARKS)


def test_pairs_of_folders_match_by_name_and_frames_follow_in_natural_order(tmp_path, capsys):
    moving = clip(0, 12, 32, 40)
    noise = 0.05 * torch.randn(moving.shape, generator=torch.Generator().manual_seed(1))
    save_frames(tmp_path / "reference" / "a", moving, "img{}.png")  # img10 after img9
    save_frames(tmp_path / "restored" / "a", moving)
    save_frames(tmp_path / "reference" / "b7", moving)
    with VideoWriter(tmp_path / "restored" / "b07.mkv", 32, 40, rate=25, codec="lossless") as writer:
        writer.write(np.stack([to_pixels(frame) for frame in (moving + noise).unbind(1)]))
    out = tmp_path / "out"
    folders = ["--restored", str(tmp_path / "restored"), "--reference", str(tmp_path / "reference")]
    assert main(["evaluate", *folders, "--out", str(out)]) == 0
    expected = psnr(read(tmp_path / "restored" / "b07.mkv"), read(tmp_path / "reference" / "b7"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "| a | 12 | 80.00 | 1.000 | [1] | [2] |"  # what equals its original
    assert lines[3].startswith(f"| b7 | 12 | {expected:.2f} | 0.")
    assert lines[4].startswith(f"| mean | 24 | {(80 + expected) / 2:.2f} | ")
    assert len(list((out / "pairs").iterdir())) == 2


def test_pairs_of_files_and_of_pictures(tmp_path):
    first, second = clip(0, 2, 32, 40).unbind(1)
    for name, frame in {"restored/1.png": first, "reference/001.png": second, "reference.tif": second}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(to_pixels(frame)).save(tmp_path / name)
    expected = psnr(to_pixels(first)[None], to_pixels(second)[None])
    folders = evaluate_pairs(tmp_path / "restored", tmp_path / "reference", tmp_path / "out")
    assert folders["figures"]["psnr"] == pytest.approx(expected, abs=1e-4) and list(folders["by_clip"]) == ["001"]
    files = evaluate_pairs(tmp_path / "restored" / "1.png", tmp_path / "reference.tif", tmp_path / "out")
    assert files["figures"] == folders["figures"]
    # A file stands beside a folder of frames.
    assert [name for name, *_ in find_pairs(tmp_path / "restored" / "1.png", tmp_path / "reference")] == ["reference"]


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda folder: (folder / "b.png").unlink(), "b.png lies in"),
        (lambda folder: (folder / "b.png").rename(folder / "c.png"), "b.png lies in"),
        (lambda folder: Image.new("RGB", (41, 32)).save(folder / "b.png"), "41x32"),
        (lambda folder: [path.unlink() for path in folder.iterdir()], "empty"),
    ],
)
def test_pairs_that_do_not_match_are_one_line(tmp_path, change, word):
    for folder in ("restored", "reference"):
        (tmp_path / folder).mkdir()
        for name in ("a.png", "b.png"):
            Image.new("RGB", (40, 32)).save(tmp_path / folder / name)
    change(tmp_path / "reference")
    with pytest.raises(InputError, match=word) as error:
        evaluate_pairs(tmp_path / "restored", tmp_path / "reference", tmp_path / "out")
    assert "\n" not in str(error.value)


def test_baselines_are_those_of_the_libraries():
    low = (clip(0, 3, 12, 17) * 255).round() / 255

    def pillow(filter):
        picture = Image.fromarray(to_pixels(low[:, 2])).resize((70, 48), filter)
        return from_pixels(np.array(picture))

    assert torch.equal(benchmarks.lanczos(low, (48, 70))[:, 2], pillow(Image.Resampling.LANCZOS))
    bicubic = benchmarks.bicubic(low, (48, 70))
    assert torch.equal(
        bicubic[:, 2], F.interpolate(low[None, :, 2], (48, 70), mode="bicubic", antialias=True)[0].clamp(0, 1)
    )
    difference = (bicubic[:, 2] - pillow(Image.Resampling.BICUBIC)).abs()
    assert difference.max() < 2 / 255 and difference.mean() < 0.5 / 255  # Pillow rounds to 8 bits between the axes


def test_a_clip_is_no_further_read_than_figures_need():
    def pairs():
        yield from [(torch.rand(3, 16, 16), torch.rand(3, 16, 16))] * 2
        raise AssertionError("nothing is left to measure")

    figures = score(((a, b) for a, b in pairs()), ["dover", "niqe"])
    assert figures["dover"] == "unavailable: no maintained package provides DOVER" and "16x16" in figures["niqe"]


def test_a_metric_without_a_number_for_one_frame_has_none_for_the_clip():
    frame, broken = torch.rand(3, 16, 16), torch.full((3, 16, 16), torch.nan)
    figures = score([(frame, frame), (broken, frame)], ["psnr", "ssim", "dists"])
    assert figures["psnr"] == figures["ssim"] == "unavailable: frame 1: a clip holds values that are not finite"
    assert "DISTS" in figures["dists"]


def test_the_mean_over_clips_hides_nothing():
    assert mean({"a": {"ssim": 0.5, "niqe": "unavailable: x"}, "b": {"ssim": 1.0, "niqe": "unavailable: x"}}) == {
        "ssim": 0.75,
        "niqe": "unavailable: x",
    }
    figures = mean({"a": {"ssim": 0.5}, "b": {"ssim": "unavailable: flat"}})
    assert figures == {"ssim": "unavailable: 1 of 2 clips have no number, such as b: flat"}


def test_a_table_of_missing_benchmarks_has_the_figures_of_the_paper():
    missing = {"clips": 0, "made": False, "figures": {"bicubic": dict.fromkeys("abcd", "unavailable: x")}}
    table = benchmark_table({"benchmarks": dict.fromkeys(BENCHMARKS, missing), "protocol": {"preset": "paper"}})
    assert table.count("| [1] |") == 6 and table.endswith("\n\n- [1] unavailable: x")
    for figures in ("26.26 / 0.798 / 0.203 / 0.101", "21.90 / 0.598 / 0.350 / 0.135", "22.46 / 0.600 / 0.274 / 0.110"):
        assert figures in table
    for figures in ("4.687 / 51.09 / 0.295 / 8.176", "4.015 / 59.97 / 0.497 / 15.55"):
        assert figures in table
