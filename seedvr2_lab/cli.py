"""`seedvr2-lab`: the package from the shell. A user's mistake is answered in one line with status 2."""

import argparse
import sys
from pathlib import Path

from seedvr2_lab.console import InputError

# Each command imports what it needs when it runs, so that --help answers at once.


def main(arguments: list[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        return options.command(options) or 0
    except InputError as error:
        print(f"seedvr2-lab: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("seedvr2-lab: interrupted", file=sys.stderr)
        return 130


def _restore(options: argparse.Namespace) -> None:
    from seedvr2_lab.restore import restore

    summary = restore(
        options.source,
        options.target,
        scale=options.scale,
        height=options.height,
        model=options.model,
        seed=options.seed,
        color_fix=options.color == "wavelet",
        codec=options.codec,
        tolerant=options.tolerant,
        overwrite=options.overwrite,
        device=options.device,
    )
    phases = ", ".join(f"{phase} {seconds:.1f} s" for phase, seconds in summary.seconds.items())
    print(f"{options.target}: {summary.frames} frames of {summary.width}x{summary.height} ({phases})")


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


def _report_parameters(options: argparse.Namespace) -> dict[str, str]:
    parameters = dict(options.parameter)
    for name in ("seeds", "arms"):
        if (items := getattr(options, name)) is not None:
            parameters[name] = f"[{items}]"
    return parameters


def _train(options: argparse.Namespace) -> None:
    from seedvr2_lab.training.bundled import STAGES

    run = Path(options.out or f"runs/{options.stage}")
    print(f"checkpoints and log: {run} (the same command goes on from there)")
    print(STAGES[options.stage](run, Path(options.weights), options.device))


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
        from seedvr2_lab.lab.evaluation import as_markdown, evaluate_pictures
        from seedvr2_lab.restore import Restorer

        print(as_markdown(evaluate_pictures(Restorer.load(options.model, device=options.device))))


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
    parser = argparse.ArgumentParser(prog="seedvr2-lab", description="One-step video restoration, to use and to study.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    restore = commands.add_parser("restore", help="restore a video or a picture")
    restore.set_defaults(command=_restore)
    restore.add_argument("source", help="video or picture file")
    restore.add_argument("target", help="file to write: .mp4, .mov, .mkv, .webm, or a picture for a picture")
    size = restore.add_mutually_exclusive_group()
    size.add_argument("--scale", type=float, help="size of the result over that of the source (default 4)")
    size.add_argument("--height", type=int, help="height of the result in pixels; the width follows")
    restore.add_argument("--model", default="tiny", help="tiny, 3b, 7b or a weight file (default tiny)")
    restore.add_argument("--seed", type=int, default=0, help="of the noise (default 0)")
    restore.add_argument("--color", choices=("wavelet", "none"), default="wavelet", help="colour fix (default wavelet)")
    restore.add_argument("--codec", default="h264", help="h264, h265, vp9 or lossless (default h264)")
    restore.add_argument("--tolerant", action="store_true", help="restore what can be read of a damaged source")
    restore.add_argument("--overwrite", action="store_true", help="replace an existing target")
    restore.add_argument("--device", default="cpu", help="cpu or cuda (default cpu)")

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
    report.add_argument("--notebooks", default="notebooks", help="folder of the notebooks (default notebooks)")
    report.add_argument("--out", help="folder of the reports (default NOTEBOOKS/reports)")

    train = commands.add_parser("train", help="train a bundled model")
    train.set_defaults(command=_train)
    train.add_argument("stage", choices=("vae", "tiny"), help="vae first; tiny learns on its latents")
    train.add_argument("--out", help="folder of checkpoint and log; a run found there goes on (default runs/STAGE)")
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
    evaluate.add_argument("--model", default="tiny", help="tiny, 3b, 7b or a weight file (default tiny)")
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
