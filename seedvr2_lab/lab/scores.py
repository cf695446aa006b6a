"""Figures of a clip from its frames, of a benchmark from its clips, and the tables they make."""

from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any

from torch import Tensor

from seedvr2_lab.lab.benchmark_sets import BENCHMARKS, PUBLISHED
from seedvr2_lab.metrics import METRICS, Unavailable, measure, psnr

MOST_PSNR = 80.0  # dB: a frame without error would have infinitely many, and so would the mean
UNAVAILABLE = "unavailable: "  # begins what stands where a number would

TITLES = {
    "psnr": "PSNR", "ssim": "SSIM", "lpips": "LPIPS", "dists": "DISTS",
    "niqe": "NIQE", "musiq": "MUSIQ", "clipiqa": "CLIP-IQA", "dover": "DOVER",
}  # fmt: skip
ARROWS = {"higher": "↑", "lower": "↓"}

Figure = float | str  # a number, or UNAVAILABLE and why
Figures = dict[str, Figure]  # by metric


def score(pairs: Iterable[tuple[Tensor, Tensor | None]], metrics: Sequence[str]) -> Figures:
    """The mean over frames of each metric.

    A metric that has no number for a frame has none for the clip. Where none is left the rest is not even asked for.

    Args:
        pairs: restored frames and their originals, (3, H, W) in [0, 1], or None where there is none; taken one by one.
        metrics: keys of `METRICS` that look at single frames.
    """
    values, failed = {name: [] for name in metrics}, {}
    for t, (frame, original) in enumerate(pairs):
        for name in values.keys() - failed.keys():
            is_beyond = name == "psnr" and psnr(frame, original) > MOST_PSNR
            value = MOST_PSNR if is_beyond else measure(name, frame, original)
            if isinstance(value, Unavailable):
                failed[name] = f"{UNAVAILABLE}frame {t}: {value.why}" if t else str(value)
            else:
                values[name].append(value)
        if len(failed) == len(values):
            break
    return {name: failed.get(name) or fmean(values[name]) for name in metrics}


def mean(by_clip: dict[str, Figures]) -> Figures:
    """The mean over clips of each metric; no number for one clip is none for all."""
    figures = {}
    for name in next(iter(by_clip.values())):
        column = {clip: row[name] for clip, row in by_clip.items()}
        failed = {clip: value for clip, value in column.items() if isinstance(value, str)}
        if not failed:
            figures[name] = fmean(column.values())
            continue
        clip, reason = next(iter(failed.items()))
        if len(failed) < len(column) or len(set(failed.values())) > 1:
            why = reason.removeprefix(UNAVAILABLE)
            reason = f"{UNAVAILABLE}{len(failed)} of {len(column)} clips have no number, such as {clip}: {why}"
        figures[name] = reason
    return figures


def benchmark_table(results: dict[str, Any]) -> str:
    """Markdown: what `evaluate_benchmarks` returns, a row for each benchmark, beside the paper's Table 1."""
    benchmarks, notes = results["benchmarks"], {}
    methods = list(next(iter(benchmarks.values()))["figures"])
    rows = [["benchmark", "clips", "figures", *methods, *(f"{model}, paper" for model in PUBLISHED)]]
    for name, result in benchmarks.items():
        spec = BENCHMARKS[name]
        made = f", lq by preset {results['protocol']['preset']}" if result["made"] else ""
        clips = f"{result['clips']} of {spec.clips}{made}"
        ours = [_cell(result["figures"][method].values(), notes) for method in methods]
        rows.append(
            [name, clips, " / ".join(map(_title, spec.metrics)), *ours, *(_cell(row, notes) for row in spec.paper)]
        )
    return _markdown(rows, notes)


def pair_table(results: dict[str, Any]) -> str:
    """Markdown: what `evaluate_pairs` returns, a row for each clip and one for their mean."""
    by_clip, notes = results["by_clip"], {}
    rows = [["clip", "frames", *map(_title, results["figures"])]]
    for name, result in by_clip.items():
        rows.append([name, str(result["frames"]), *(_cell([value], notes) for value in result["figures"].values())])
    frames = sum(result["frames"] for result in by_clip.values())
    rows.append(["mean", str(frames), *(_cell([value], notes) for value in results["figures"].values())])
    return _markdown(rows, notes)


def _title(metric: str) -> str:
    return f"{TITLES[metric]} {ARROWS[METRICS[metric].better]}"


def _cell(values: Iterable[Figure], notes: dict[str, int]) -> str:
    """Numbers as the paper prints them; what is unavailable becomes the number of a note, once where all agree."""

    def shown(value: Figure) -> str:
        if isinstance(value, str):
            return f"[{notes.setdefault(value, len(notes) + 1)}]"
        return f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}"

    cells = [shown(value) for value in values]
    return cells[0] if cells[0].startswith("[") and len(set(cells)) == 1 else " / ".join(cells)


def _markdown(rows: list[list[str]], notes: dict[str, int]) -> str:
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, "|---" * len(rows[0]) + "|")
    return "\n".join(lines + [""] * bool(notes) + [f"- [{number}] {note}" for note, number in notes.items()])
