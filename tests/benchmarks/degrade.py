"""Prints the milliseconds that each stage of the real-world recipe takes: python tests/benchmarks/degrade.py

Processor time, which is the time on a quiet machine, since all stages run in one thread.
"""

import time
from collections import defaultdict
from itertools import chain

import torch

from seedvr2_lab.media.clips import camera_clip, load_picture
from seedvr2_lab.media.degrade import degrade
from seedvr2_lab.media.recipe import RECIPES

SEEDS = 12
CLIPS = {"5 frames, 128x128": (5, (128, 128)), "17 frames, 256x256": (17, (256, 256))}


def stage_times(frames: int, size: tuple[int, int]) -> dict[str, float]:
    """Stage -> milliseconds a clip, the mean over seeds; a stage that a seed leaves out counts as 0."""
    clip = camera_clip(load_picture("coffee"), frames, size, torch.Generator().manual_seed(0))
    seconds = defaultdict(float)
    for seed in range(SEEDS):
        since = time.process_time()

        def keep(stage, frames_TCHW):
            nonlocal since
            now = time.process_time()
            seconds[stage.name] += now - since
            since = now

        degrade(clip, torch.Generator().manual_seed(seed), RECIPES["paper"], keep)
    return {stage: 1000 * total / SEEDS for stage, total in seconds.items()}


if __name__ == "__main__":
    tables = {name: stage_times(*clip) for name, clip in CLIPS.items()}
    print("ms of one core a clip\n| stage | " + " | ".join(tables) + " |")
    print("|---" * (len(tables) + 1) + "|")
    for stage in sorted(dict.fromkeys(chain(*tables.values())), key=lambda name: name[-1]):  # 1, 2, then the end
        print(f"| {stage} | " + " | ".join(f"{table.get(stage, 0):.1f}" for table in tables.values()) + " |")
    print("| all | " + " | ".join(f"{sum(table.values()):.0f}" for table in tables.values()) + " |")
