"""The memory plan: by hand where that is possible, against a real forward pass, and for the published sizes."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from seedvr2_lab.config import transformer_config
from seedvr2_lab.training.memory import kept_for_backward, memory_plan, plan_table


def test_linear_layers_keep_what_enters_them():
    with torch.device("meta"):
        blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 32), nn.Linear(32, 8)) for _ in range(3))
        first, x = nn.Linear(8, 8), torch.empty(10, 8, requires_grad=True)

        def run():
            y = first(x)
            for block in blocks:
                y = block(y)
            return y

        narrow, wide = 10 * 8 * 4, 10 * 32 * 4
        found = kept_for_backward(nn.ModuleList([first, blocks]), blocks, run)
    assert found[False] == narrow + 3 * (narrow + wide)
    # What enters the first layer, what enters each block, and one block run again.
    assert found[True] == narrow + 3 * narrow + (narrow + wide)


def test_the_published_sizes():
    for size, millions in (("3b", 3391.5), ("7b", 8239.6)):
        plans = memory_plan(transformer_config(size), (1, 32, 32))
        assert plans[True].parameters / 2e6 == pytest.approx(millions, rel=0.04)  # the discriminator has a little more
        assert plans[True].total < plans[False].total and plans[True].weights == plans[False].weights
    table = plan_table("study")
    assert table.count("\n") == 11 and "| 101x720x1280 | yes |" in table


def test_activations_grow_with_the_clip():
    config = transformer_config("study")
    one, four = (memory_plan(config, (frames, 32, 32))[False].activations for frames in (1, 4))
    assert 3 * one < four < 5 * one


REAL = """
import psutil, torch
from seedvr2_lab.config import transformer_config
from seedvr2_lab.model.dit import DiT
from seedvr2_lab.training.memory import kept_for_backward
torch.set_num_threads(1)

def network(device):
    with torch.device(device):
        dit = DiT(transformer_config("tiny", layers=16))
        clips, text = torch.zeros(4, 33, 1, 96, 128), torch.zeros(4, 128)
    return dit, dit.blocks, lambda: dit(clips, text, 500.0)

planned = kept_for_backward(*network("meta"))[False]
*_, run = network("cpu")
with torch.no_grad():
    run()
before = psutil.Process().memory_info().rss
result = run()
print(planned / (psutil.Process().memory_info().rss - before))
"""


def test_a_real_forward_pass_needs_as_much():
    done = subprocess.run([sys.executable, "-c", REAL], capture_output=True, text=True, check=True)
    assert float(done.stdout) == pytest.approx(1, abs=0.2)
