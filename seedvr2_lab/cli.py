"""`seedvr2-lab`: the package from the shell. A user's mistake is answered in one line with status 2."""

import argparse
import dataclasses
import json
import math
import sys
from pathlib import Path
from typing import NoReturn

from seedvr2_lab.console import InputError, TrainingFailed, writable, write_whole

# Each command imports what it needs when it runs, so that --help answers at once.


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return options.command(options) or 0
    except InputError as error:
        print(f"seedvr2-lab: {error}", file=sys.stderr)
        return 2
    except TrainingFailed as failure:
        print(f"seedvr2-lab: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("seedvr2-lab: interrupted", file=sys.stderr)
        return 130


class _Parser(argparse.ArgumentParser):
    """Wrong usage, too, is answered in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}; {self.prog} --help lists the options\n")


def _restore(options: argparse.Namespace) -> None:
    from seedvr2_lab.restore import restore

    given = {name: value for name, value in vars(options).items() if name not in ("command", "json", "area")}
    try:
        summary = restore(**given, area=_area(options.area))
    except KeyboardInterrupt:
        print("seedvr2-lab: what is finished is kept; the same command with --resume goes on there", file=sys.stderr)
        raise
    if options.json:
        print(json.dumps(dataclasses.asdict(summary)))
        return
    what = f"{options.target}: {summary.frames} frames of {summary.width}x{summary.height}"
    if summary.clips != 1:
        what = f"{options.target}: {summary.clips} clips, {summary.frames} frames"
    if options.dry_run:
        memory = f"{summary.needed_bytes / 1e9:.2f} GB of memory beside the models"
        print(f"{what}; nothing was written: would need about {memory} and {summary.total_seconds:.0f} s")
        return
    phases = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in summary.seconds.items())
    print(f"{what} in {summary.total_seconds:.1f} s, at most {summary.peak_bytes / 1e9:.2f} GB ({phases})")


def _area(text: str | None) -> int | None:
    """Pixels: a number, or WIDTHxHEIGHT."""
    if text is None:
        return None
    try:
        return math.prod(int(number) for number in text.split("x", 1))
    except ValueError:
        raise InputError(f"area '{text}' is no area: give WIDTHxHEIGHT, such as 1280x720, or pixels") from None


def _degrade(options: argparse.Namespace) -> None:
    from seedvr2_lab.media.degrade import degrade_file

    frames, height, width = degrade_file(
        options.source,
        options.target,
        preset=options.preset,
        scale=options.scale,
        seed=options.seed,
        codec=options.codec,
        tolerant=options.tolerant,
        overwrite=options.overwrite,
    )
    print(f"{options.target}: {frames} frames of {width}x{height}")


def _report(options: argparse.Namespace) -> int:
    if options.publish:
        return _publish(options)
    from seedvr2_lab.lab.reports import run

    results = run(
        options.notebook,
        profile=options.profile,
        parameters=_report_parameters(options),
        jobs=options.jobs,
        notebooks=Path(options.notebooks),
        out=Path(options.out) if options.out else None,
    )
    return int(any(result.state == "failed" for result in results))


def _publish(options: argparse.Namespace) -> int:
    from seedvr2_lab.lab.publishing import publish, with_verdicts
    from seedvr2_lab.lab.report_inputs import select_notebooks

    notebooks = Path(options.notebooks)
    reports = Path(options.out) if options.out else notebooks / "reports"
    names = [path.stem for path in select_notebooks(notebooks, options.notebook)] if options.notebook else []
    for folder in publish(names, reports):
        print(folder)
    readme = notebooks.resolve().parent / "README.md"
    text = with_verdicts(readme.read_text(encoding="utf-8"), reports / "published")
    write_whole(readme, text)
    return 0


def _report_parameters(options: argparse.Namespace) -> dict[str, str]:
    parameters = dict(options.parameter)
    for name in ("seeds", "arms"):
        if (items := getattr(options, name)) is not None:
            parameters[name] = f"[{items}]"
    return parameters


def _train(options: argparse.Namespace) -> None:
    if options.plan:
        from seedvr2_lab.training.memory import plan_table

        print(plan_table(options.size))
        return
    from seedvr2_lab.training.stages import train_stage

    names = ("size", "profile", "seed", "arm", "teacher", "start", "data", "accumulate", "checkpointing", "device")
    chosen = {name: getattr(options, name) for name in names}
    out = Path(options.out)
    run = out / "_".join([options.size, options.profile, options.stage, *([options.arm] if options.arm else [])])
    print(f"checkpoints, log and samples: {run} (the same command goes on from there)", flush=True)
    print(train_stage(options.stage, run=run, pools=out / "pairs", weights=Path(options.weights), **chosen))


def _evaluate(options: argparse.Namespace) -> None:
    is_pair, is_benchmark = options.restored or options.reference, options.data or options.benchmark
    if options.layout:
        from seedvr2_lab.lab.benchmark_sets import LAYOUT

        print(LAYOUT)
    elif is_pair and is_benchmark:
        raise InputError("--restored and --reference stand alone: leave out the benchmarks and --data")
    elif is_pair:
        if not (options.restored and options.reference):
            raise InputError("--restored and --reference go together: give both")
        from seedvr2_lab.lab.benchmarks import evaluate_pairs
        from seedvr2_lab.lab.scores import pair_table

        print(pair_table(evaluate_pairs(options.restored, options.reference, options.out)))
        print(f"\nfigures: {options.out}/pairs.json")
    elif is_benchmark:
        if not options.data:
            raise InputError("benchmarks lie in a folder: give it with --data, laid out as --layout says")
        from seedvr2_lab.lab.benchmarks import evaluate_benchmarks
        from seedvr2_lab.lab.scores import benchmark_table

        results = evaluate_benchmarks(
            options.data, options.benchmark, options.out, model=options.model, device=options.device
        )
        print(benchmark_table(results))
        print(f"\nfigures by clip: {options.out}/results.json")
    else:
        from seedvr2_lab.lab.evaluation import as_markdown, evaluate
        from seedvr2_lab.lab.gallery import Gallery

        for file in filter(None, (options.json, options.picture)):
            writable(Path(file).resolve().parent, "--json or --picture")
        gallery = Gallery()
        table = evaluate(
            options.model.split(","),
            options.preset.split(","),
            footage=options.footage,
            device=options.device,
            keep=gallery,
        )
        print(as_markdown(table))
        if options.json:
            write_whole(Path(options.json), json.dumps(table, indent=1) + "\n")
        if options.picture:
            gallery.save(options.picture)


def _weights(options: argparse.Namespace) -> None:
    from seedvr2_lab.model import published

    if "metrics" in options.name:
        if len(options.name) > 1 or options.revision or options.sha256:
            raise InputError("metrics stands alone: fetch the models by another call, and give no revision or checksum")
        from seedvr2_lab.metrics import fetch_weights

        print("\n".join(fetch_weights()))
        return
    if options.sha256 and len(options.name) != 1:
        raise InputError("--sha256 belongs to one file: give one name")
    for name in options.name:
        published.check_request(name, options.sha256)
    print(f"{published.LICENCE}\nfolder {published.folder()} (another one: set {published.FOLDER})", flush=True)
    for name in options.name:
        published.fetch(name, options.revision, options.sha256)
    for name, file, state in published.inventory():
        print(f"{name:5}{file:20}{state}")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="seedvr2-lab", description="One-step video restoration, to use and to study.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    restore = commands.add_parser("restore", help="restore a video, a picture or a folder of them")
    restore.set_defaults(command=_restore)
    restore.add_argument("source", help="video, picture or folder; frames of a clip if --rate or the target say so")
    restore.add_argument("target", help="file to write: .mp4, .mov, .mkv, .webm, a picture for a picture; or a folder")
    size = restore.add_argument_group("size of the result (exact, any number)")
    size.add_argument("--scale", type=float, help="over that of the source (default 4)")
    size.add_argument("--height", type=int, help="in pixels; alone, the width follows")
    size.add_argument("--width", type=int, help="in pixels; alone, the height follows")
    size.add_argument("--area", help="WIDTHxHEIGHT or pixels: as large as that, in the source's own shape")
    how = restore.add_argument_group("how")
    how.add_argument("--model", default="tiny", help="tiny, distilled, teacher, 3b, 7b or a weight file (default tiny)")
    how.add_argument("--seed", type=int, default=0, help="of the noise, the same for every clip (default 0)")
    how.add_argument("--steps", type=int, help="calls of the transformer (default the model's own)")
    how.add_argument("--guidance", type=float, help="scale of the guidance, 1 for none (default the model's own)")
    how.add_argument("--strength", type=float, default=1.0, help="0 for a plain resize to 1 for the model (default 1)")
    how.add_argument("--color", default="wavelet", help="wavelet, lab, adain or none (default wavelet)")
    how.add_argument("--chunk", type=int, default=17, help="frames at a time; more need more memory (default 17)")
    how.add_argument("--overlap", type=int, help="frames that chunks share, blended (default up to 5)")
    how.add_argument("--tile", type=int, help="pixels a side: the VAE works square by square, with less memory")
    how.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")
    how.add_argument("--dtype", help="float32, bfloat16 or float16 (default the model's own)")
    files = restore.add_argument_group("files")
    files.add_argument("--start", type=float, default=0.0, help="seconds after the first frame (default 0)")
    files.add_argument("--end", type=float, help="seconds after the first frame (default the end)")
    files.add_argument("--rate", type=float, help="frames per second of a folder of frames (default 25)")
    files.add_argument("--codec", default="h264", help="h264, h265, vp9 or lossless (default h264)")
    files.add_argument("--tolerant", action="store_true", help="restore what can be read of a damaged source")
    files.add_argument("--overwrite", action="store_true", help="replace an existing target")
    files.add_argument("--resume", action="store_true", help="go on where an interrupted run was")
    files.add_argument(
        "--dry-run", action="store_true", help="check everything, estimate memory and time, write nothing"
    )
    files.add_argument("--json", action="store_true", help="print the summary for machines")

    degrade = commands.add_parser("degrade", help="make a video or a picture worse, as the real world does")
    degrade.set_defaults(command=_degrade)
    degrade.add_argument("source", help="video or picture file")
    degrade.add_argument("target", help="file to write: .mp4, .mov, .mkv, .webm, or a picture for a picture")
    degrade.add_argument("--preset", default="paper", help="simple, light, medium, heavy or paper (default paper)")
    degrade.add_argument("--scale", type=int, default=4, help="size of the source over that of the result (default 4)")
    degrade.add_argument("--seed", type=int, default=0, help="of all that is random (default 0)")
    degrade.add_argument("--codec", default="lossless", help="h264, h265, vp9 or lossless (default lossless)")
    degrade.add_argument("--tolerant", action="store_true", help="degrade what can be read of a damaged source")
    degrade.add_argument("--overwrite", action="store_true", help="replace an existing target")

    report = commands.add_parser("report", help="run notebooks headlessly and write their reports")
    report.set_defaults(command=_report)
    report.add_argument("notebook", nargs="*", help="number or name, such as 10 or 00_tour (default all)")
    report.add_argument("--profile", default="smoke", help="smoke, laptop or gpu (default smoke)")
    report.add_argument("--seeds", help="for notebooks that take seeds, such as 0,1,2")
    report.add_argument("--arms", help="for notebooks that take arms, such as fixed,adaptive")
    report.add_argument(
        "-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="any other parameter"
    )
    report.add_argument("--jobs", type=int, default=1, help="notebooks at a time; they share the cores (default 1)")
    report.add_argument(
        "--publish",
        action="store_true",
        help="run nothing: keep finished reports in the repository, verdicts in its README",
    )
    report.add_argument("--notebooks", default="notebooks", help="folder of the notebooks (default notebooks)")
    report.add_argument("--out", help="folder of the reports (default NOTEBOOKS/reports)")

    train = commands.add_parser("train", help="train a stage of the recipe")
    train.set_defaults(command=_train)
    stages = ("vae", "regression", "teacher", "progressive", "consistency", "adversarial", "smaller")
    train.add_argument("stage", choices=stages, help="in the order of the recipe: teacher, progressive, adversarial")
    train.add_argument("--size", default="tiny", help="tiny or study (default tiny)")
    train.add_argument("--profile", default="laptop", help="how long: smoke, laptop or gpu (default laptop)")
    train.add_argument("--seed", type=int, default=0, help="of weights, data and noise (default 0)")
    train.add_argument(
        "--arm", help="losses of the adversarial stage: apt, rpgan, +l1, +fm, full, final (default full)"
    )
    train.add_argument("--teacher", help="model to learn from (default that of the earlier stage)")
    train.add_argument("--start", help="model the adversarial stage starts from (default that of the earlier stage)")
    train.add_argument("--data", help="folder of videos and pictures to learn from (default the bundled photographs)")
    train.add_argument("--accumulate", type=int, default=1, help="batches whose gradients make one step (default 1)")
    train.add_argument("--checkpointing", action="store_true", help="less memory: run blocks again for their gradients")
    train.add_argument(
        "--plan", action="store_true", help="only say what memory an adversarial step needs at any size, 3b and 7b too"
    )
    train.add_argument("--out", default="runs", help="folder of all runs and pairs; goes on there (default runs)")
    train.add_argument("--weights", default="runs/weights", help="folder for the finished file (default runs/weights)")
    train.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")

    evaluate = commands.add_parser(
        "evaluate", help="measure a model on the evaluation pictures (default) or on benchmarks, or any restored files"
    )
    evaluate.set_defaults(command=_evaluate)
    evaluate.add_argument("benchmark", nargs="*", help="SPMCS, UDM10, REDS30, YouHQ40, VideoLQ or AIGC28 (default all)")
    evaluate.add_argument("--data", help="folder of the benchmarks")
    evaluate.add_argument("--layout", action="store_true", help="say how that folder is laid out, and nothing else")
    evaluate.add_argument("--restored", help="file or folder to measure against --reference")
    evaluate.add_argument("--reference", help="the originals of --restored: as many, with the same names and sizes")
    evaluate.add_argument(
        "--out", default="runs/benchmarks", help="folder of the figures; goes on there (default runs/benchmarks)"
    )
    evaluate.add_argument(
        "--model",
        default="tiny",
        help="tiny, distilled, teacher, 3b, 7b or a weight file (default tiny); "
        "without benchmarks also several: tiny,teacher@8 (8 steps)",
    )
    evaluate.add_argument(
        "--preset", default="simple", help="degradations of the pictures: light,paper (default simple)"
    )
    evaluate.add_argument("--footage", help="video whose middle is degraded and restored beside the pictures")
    evaluate.add_argument("--json", help="file for the figures of every picture")
    evaluate.add_argument("--picture", help="file for crops of all results side by side")
    evaluate.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")

    weights = commands.add_parser("weights", help="list or download the published weights, or those of the metrics")
    weights.set_defaults(command=_weights)
    weights.add_argument(
        "name", nargs="*", help="3b, 7b, vae or metrics, to download (default only list what is there)"
    )
    weights.add_argument("--revision", help="branch, tag or commit on the model hub (default the newest)")
    weights.add_argument("--sha256", help="checksum the file must have (default the hub's own record of it)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
