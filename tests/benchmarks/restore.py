"""Prints how much of a restoration is not spent in the networks: python tests/benchmarks/restore.py VIDEO

Reading and writing run in threads beside the networks. The first share counts what the networks waited for; the second
one adds all that the threads took, as if they had run alone, and is an upper limit.
"""

import argparse
import tempfile
from pathlib import Path

from seedvr2_lab.restore import restore

NETWORKS = ("encode", "generate", "decode")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("video")
    parser.add_argument("--seconds", type=float, default=2.0, help="of the video (default 2)")
    parser.add_argument("--start", type=float, default=0.0)
    parser.add_argument("--scale", type=float, default=2.0)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        summary = restore(
            options.video,
            Path(folder) / "restored.mp4",
            scale=options.scale,
            start=options.start,
            end=options.start + options.seconds,
            model=options.model,
            device=options.device,
        )
    seconds, total = summary.seconds, summary.total_seconds - summary.seconds["load"]
    networks = sum(seconds[phase] for phase in NETWORKS)
    print(f"{summary.frames} frames of {summary.width}x{summary.height} in {total:.1f} s after loading")
    print("| " + " | ".join(seconds) + " |\n" + "|---" * len(seconds) + "|")
    print("| " + " | ".join(f"{spent:.2f}" for spent in seconds.values()) + " |")
    outside = total - networks
    print(f"outside the networks: {outside / total:.1%} of the time, at most", end=" ")
    print(f"{(outside + seconds['read'] + seconds['write']) / total:.1%}")
    print(f"peak memory {summary.peak_bytes / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
