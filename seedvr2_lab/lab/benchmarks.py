"""How good a restorer is on the published benchmarks, beside the paper's figures, and on any restored files.

The protocol. From the paper (Table 1 and its text): x4, to 720p where there is an original; low quality is made as in
training; PSNR, SSIM, LPIPS and DISTS against originals, NIQE, MUSIQ, CLIP-IQA and DOVER without. Our choice, for the
paper leaves it open:

- Originals with more than 720 pixels on the short side are reduced to that by antialiased bicubic, smaller ones stay,
  and what x4 leaves over is cut at the bottom and the right. With low-quality twins given both stay as they are.
- Twins are made by the degradation preset "paper", of a seed that the names of benchmark and clip decide.
- Footage without original grows x4, but to no more than 1080 pixels on the short side.
- The restorer runs as `restore` does by default: chunks that overlap, colours matched.
- Results are rounded to 8 bits and measured whole, without cutting borders or aligning, in RGB, frame by frame. A clip
  has the mean of its frames, a benchmark the mean of its clips. The PSNR of a frame counts as 80 dB at most, as in
  pyiqa: the infinity of a frame without error would be that of the benchmark.

Published figures hold for the authors' own twins and tools: compare restorers within one table.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from seedvr2_lab.console import InputError, progress, writable, write_whole
from seedvr2_lab.lab.arms import arm_key, kept
from seedvr2_lab.lab.benchmark_sets import BENCHMARKS, WITH_ORIGINAL, Clip, cut_size, find_benchmarks, find_pairs
from seedvr2_lab.lab.scores import MOST_PSNR, UNAVAILABLE, Figures, mean, score
from seedvr2_lab.media.compression import from_pixels, to_pixels
from seedvr2_lab.media.degrade import degrade_file, resize
from seedvr2_lab.media.pictures import list_frames
from seedvr2_lab.media.video import VideoReader
from seedvr2_lab.media.video_writer import VideoWriter
from seedvr2_lab.metrics.library import LIBRARY
from seedvr2_lab.metrics.weights import problem, weights_root
from seedvr2_lab.restore import Restorer, Settings
from seedvr2_lab.restore.chunks import cut

OUT = Path("runs/benchmarks")

STRETCH = 17  # frames enlarged at a time

Enlarge = Callable[[Tensor, tuple[int, int]], Tensor]  # (3, T, h, w) in [0, 1] and a size -> (3, T, *size)
Method = Callable[[Iterator[Tensor], tuple[int, int]], Iterator[Tensor]]  # frames (3, h, w) -> runs (T, 3, *size)


@dataclass(frozen=True)
class Protocol:
    version: int = 2  # raise it whenever the same settings would give other numbers than before
    scale: int = 4
    short_side: int = 720  # of an original, at most
    found_side: int = 1080  # the short side of what is made of footage without original, at most
    preset: str = "paper"
    seed: int = 0  # of the restorer's noise
    most_psnr: float = MOST_PSNR  # of a frame, in dB


PROTOCOL = Protocol()


def evaluate_benchmarks(
    data: str | Path,
    names: Sequence[str] = (),
    out: str | Path = OUT,
    *,
    model: str | Path = "tiny",
    device: str = "cpu",
) -> dict[str, Any]:
    """Restore benchmarks with a model and with bicubic and Lanczos interpolation, and measure what comes out.

    What was measured of a clip is kept in `out`: called again after whatever stopped it, this goes on with the next
    one. Memory holds one stretch of frames, its result and one frame of the original.

    Args:
        data: laid out as `benchmark_sets.LAYOUT` says.
        names: keys of `BENCHMARKS`; if empty all, where those that are not in `data` have no figures.
        out: folder for results.json, a small file for each clip and method, and the clips that had to be made.
        model: as for `Restorer.load`.
        device: no part of what is kept, for it moves the last digits only.

    Returns:
        What results.json holds: "protocol", "model", and for each of "benchmarks" its number of "clips",
        "made" (whether the low-quality twins were made here), "figures" by method, and "by_clip", those of each clip.

    Raises:
        InputError: the layout has a fault, or `out` cannot be written.
    """
    sets = find_benchmarks(Path(data), tuple(names), PROTOCOL.scale)
    out = writable(Path(out), "--out")
    restorer = Restorer.load(model, device=device)
    weights = fingerprint(restorer)
    methods = {
        "bicubic": ("bicubic", partial(_enlarged, bicubic)),
        "Lanczos": ("Lanczos", partial(_enlarged, lanczos)),
        str(model): (weights, partial(_by, restorer)),
    }
    benchmarks = {}
    for benchmark in sets if names else BENCHMARKS:
        clips = sets.get(benchmark, [])
        by_clip = _evaluate_clips(benchmark, clips, methods, out)
        missing = dict.fromkeys(BENCHMARKS[benchmark].metrics, f"{UNAVAILABLE}{Path(data) / benchmark} is not there")
        benchmarks[benchmark] = {
            "clips": len(clips),
            "made": any(clip.low is None for clip in clips),
            "figures": {
                method: mean({name: figures[method] for name, figures in by_clip.items()}) if clips else missing
                for method in methods
            },
            "by_clip": by_clip,
        }
    results = {
        "protocol": dataclasses.asdict(PROTOCOL),
        "model": {"name": str(model), "sha256": weights},
        "benchmarks": benchmarks,
    }
    write_whole(out / "results.json", json.dumps(results, indent=1, allow_nan=False))
    return results


def evaluate_pairs(restored: str | Path, reference: str | Path, out: str | Path = OUT) -> dict[str, Any]:
    """Measure restored files against their originals: two files, or two folders whose entries match by name.

    Args:
        restored, reference: videos, pictures, folders of frames, or folders of those (`benchmark_sets.LAYOUT`).
        out: folder for pairs.json and a small file for each clip, which is measured only once.

    Returns:
        What pairs.json holds: "frames" and "figures" of each clip in "by_clip", and "figures", the mean over clips.

    Raises:
        InputError: names, counts of frames or sizes differ, something cannot be read, or `out` cannot be written.
    """
    pairs = find_pairs(Path(restored), Path(reference))
    out = writable(Path(out), "--out")
    conditions, by_clip = _conditions(WITH_ORIGINAL), {}
    for name, *readers in progress(pairs, "evaluate", unit="clip"):
        settings = conditions | {"clip": name, "restored": _identity(readers[0]), "original": _identity(readers[1])}
        compute = partial(_measure_pair, *readers)
        by_clip[name] = {
            "frames": readers[0].info.frames,
            "figures": kept(settings, compute, out / "pairs", out / "locks"),
        }
    figures = mean({name: row["figures"] for name, row in by_clip.items()})
    results = {"restored": str(restored), "reference": str(reference), "figures": figures, "by_clip": by_clip}
    write_whole(out / "pairs.json", json.dumps(results, indent=1, allow_nan=False))
    return results


def bicubic(clip_CTHW: Tensor, size: tuple[int, int]) -> Tensor:
    """The enlargement that every restorer starts from; the same cubic as Pillow's and MATLAB's (a = -0.5)."""
    return resize(clip_CTHW.transpose(0, 1), size).transpose(0, 1)


def lanczos(clip_CTHW: Tensor, size: tuple[int, int]) -> Tensor:
    """Pillow's, with three lobes."""
    pictures = [Image.fromarray(to_pixels(frame_CHW)) for frame_CHW in clip_CTHW.unbind(1)]
    enlarged = [picture.resize(size[::-1], Image.Resampling.LANCZOS) for picture in pictures]
    return torch.stack([from_pixels(np.array(picture)) for picture in enlarged], 1)


def fingerprint(restorer: Restorer) -> str:
    """Of all weights and settings that a restoration depends on."""
    generator, digest = restorer.generator, hashlib.sha256()
    tensors = [generator.text, *generator.dit.state_dict().values(), *restorer.vae.state_dict().values()]
    for tensor in tensors:
        digest.update(tensor.cpu().reshape(-1).view(torch.uint8).numpy())
    digest.update(repr((generator.noise_scale, generator.dit.config, restorer.vae.config)).encode())
    return digest.hexdigest()


def _evaluate_clips(
    benchmark: str, clips: Sequence[Clip], methods: dict[str, tuple[str, Method]], out: Path
) -> dict[str, dict[str, Figures]]:
    """For each clip the figures of each method, which comes with what it is known by."""
    by_clip = {}
    conditions = _conditions(BENCHMARKS[benchmark].metrics) | {"benchmark": benchmark}
    for clip in progress(clips, benchmark, unit="clip"):
        settings = conditions | {"clip": clip.name, "low": _identity(clip.low), "original": _identity(clip.original)}
        by_clip[clip.name] = {
            label: kept(
                settings | {"method": known_by},
                partial(_measure_clip, benchmark, clip, run, out),
                out / benchmark,
                out / "locks",
            )
            for label, (known_by, run) in methods.items()
        }
    return by_clip


def _measure_clip(benchmark: str, clip: Clip, run: Method, out: Path, _: Path) -> Figures:
    low, original = _prepared(benchmark, clip, out)
    if original:
        size = cut_size(original, PROTOCOL.scale)
        return score(_beside(_restored(low, run, size), original, size), BENCHMARKS[benchmark].metrics)
    growth = min(PROTOCOL.scale, PROTOCOL.found_side / min(low.info.height, low.info.width))
    size = round(low.info.height * growth), round(low.info.width * growth)
    return score(((frame, None) for frame in _restored(low, run, size)), BENCHMARKS[benchmark].metrics)


def _measure_pair(restored: VideoReader, original: VideoReader, _: Path) -> Figures:
    size = original.info.height, original.info.width
    return score(_beside(_frames(restored, size), original, size), WITH_ORIGINAL)


def _prepared(benchmark: str, clip: Clip, out: Path) -> tuple[VideoReader, VideoReader | None]:
    """The low-quality clip, made if it isn't there, and its original as the protocol wants it."""
    if clip.low:
        return clip.low, clip.original
    settings = {"protocol": PROTOCOL, "benchmark": benchmark, "original": _identity(clip.original)}
    name, original = f"{clip.name}.{arm_key(settings)}.mkv", clip.original
    height, width = original.info.height, original.info.width
    if (shrink := PROTOCOL.short_side / min(height, width)) < 1:
        original = _made(
            out / benchmark / "gt" / name, partial(_reduce, original, round(height * shrink), round(width * shrink))
        )
    seed = int(hashlib.sha256(f"{benchmark}/{clip.name}".encode()).hexdigest()[:8], 16)
    options = dict(preset=PROTOCOL.preset, scale=PROTOCOL.scale, seed=seed)
    low = _made(out / benchmark / "lq" / name, lambda target: degrade_file(original.path, target, **options))
    return low, original


def _made(target: Path, make: Callable[[Path], Any]) -> VideoReader:
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        make(target)
    return VideoReader(target)


def _reduce(source: VideoReader, height: int, width: int, target: Path) -> None:
    with VideoWriter(target, height, width, like=source.info, codec="lossless") as writer:
        for frame_HWC, time in source:
            writer.write(to_pixels(resize(from_pixels(frame_HWC)[None], (height, width))[0]), [time])


def _restored(low: VideoReader, run: Method, size: tuple[int, int]) -> Iterator[Tensor]:
    """Frames with 8-bit levels, as they would come out of a file."""
    for run_TCHW in run((from_pixels(frame_HWC) for frame_HWC, _ in low), size):
        yield from (run_TCHW.clamp(0, 1) * 255).round() / 255


def _by(restorer: Restorer, frames: Iterator[Tensor], size: tuple[int, int]) -> Iterator[Tensor]:
    for _, run_TCHW in restorer.stream(frames, size, Settings(seed=PROTOCOL.seed)):
        yield run_TCHW


def _enlarged(enlarge: Enlarge, frames: Iterator[Tensor], size: tuple[int, int]) -> Iterator[Tensor]:
    for _, stretch_TCHW, _ in cut(frames, STRETCH, overlap=0):
        yield enlarge(stretch_TCHW.transpose(0, 1), size).transpose(0, 1)


def _frames(reader: VideoReader, size: tuple[int, int]) -> Iterator[Tensor]:
    for frame_HWC, _ in reader:
        yield from_pixels(frame_HWC[: size[0], : size[1]])


def _beside(frames: Iterator[Tensor], original: VideoReader, size: tuple[int, int]) -> Iterator[tuple[Tensor, Tensor]]:
    for t, pair in enumerate(zip_longest(frames, _frames(original, size))):
        if any(frame is None for frame in pair):  # some containers do not know how many frames they hold
            raise InputError(f"{original.path} and its twin do not both have a frame {t}: convert them to .mp4 or .mkv")
        yield pair


def _conditions(metrics: Sequence[str]) -> dict[str, Any]:
    """What all figures depend on: protocol, metrics, and which of them have the weights they need."""
    root = weights_root(None)
    files = {name: LIBRARY[name].files if name in LIBRARY else () for name in metrics}
    return {
        "protocol": PROTOCOL,
        "metrics": {name: [not problem(file, root) for file in files[name]] for name in metrics},
    }


def _identity(reader: VideoReader | None) -> str | None:
    """Of a clip's files: names, sizes and times of change."""
    if reader is None:
        return None
    paths = list_frames(reader.path) if reader.path.is_dir() else [reader.path]
    stats = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    return hashlib.sha256(repr(stats).encode()).hexdigest()
