"""The cost study: counts from formulas against PyTorch's counter, clocks that miss nothing, and a figure."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from seedvr2_lab.config import TRANSFORMERS, VAES, transformer_config, vae_config
from seedvr2_lab.lab import cost_study
from seedvr2_lab.lab.training_figures import curve_panels
from seedvr2_lab.model import published
from seedvr2_lab.model.dit import DiT
from seedvr2_lab.model.vae import VAEConfig, VideoVAE
from seedvr2_lab.restore import Restorer
from seedvr2_lab.restore.memory import needed
from seedvr2_lab.restore.settings import Settings

NARROW = cost_study.NARROW | {"layers": 4}
CASES = {
    "tiny": ("tiny", {}),
    "fixed": ("tiny", {"windows": {"kind": "fixed", "size": (2, 5, 3)}}),
    "global": ("tiny", {"windows": {"kind": "global"}}),
    "3b": ("3b", NARROW | {"separate_layers": 2, "windows": {"reference": (4, 6)}}),
    "7b": ("7b", NARROW | {"windows": {"reference": (4, 6)}}),
}


@pytest.mark.parametrize("grid", [(1, 1, 1), (1, 9, 16), (3, 7, 11), (5, 13, 4)])
@pytest.mark.parametrize("case", CASES)
def test_formulas_of_the_transformer_agree_with_the_counter(case, grid):
    size, changes = CASES[case]
    config = transformer_config(size, **changes)
    T, H, W = grid
    dit = DiT(config).eval()
    clip = torch.zeros(1, config.in_channels, T, 2 * H, 2 * W)
    text = torch.zeros(7, config.text_channels or config.dim)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        dit(clip, text, 500.0)
    counts = counter.get_flop_counts()["Global"]
    attention = sum(count for name, count in counts.items() if "scaled_dot_product" in str(name))
    matrices = counter.get_total_flops() - attention
    assert cost_study.transformer_operations(config, grid, 7) == (matrices, attention)


@pytest.mark.parametrize("changes", [{}, {"temporal_halvings": 2, "mid_attention": True, "resnets": 2}])
def test_a_long_clip_costs_the_vae_what_three_latent_frames_say(changes):
    """Counted on tensors with content, frame by frame."""
    config = VAEConfig(**VAES["small"] | {"widths": (4, 8, 8)} | changes)
    vae, size = VideoVAE(config).eval().requires_grad_(False), (8, 12)
    for latent in (2, 5):
        frames = (latent - 1) * config.temporal_factor + 1
        with FlopCounterMode(display=False) as encode:
            latent_BCTHW = vae.encode(torch.zeros(1, 3, frames, *size), sample=False)
        with FlopCounterMode(display=False) as decode:
            vae.decode(latent_BCTHW)
        found = encode.get_total_flops(), decode.get_total_flops()
        assert cost_study.vae_operations(config, latent, size) == found


def test_operations_are_those_of_the_padded_clip_and_grow_with_steps_in_the_transformer_only():
    models = transformer_config("tiny"), vae_config("small")
    one = cost_study.operations(*models, 4, (33, 50))
    assert one == cost_study.operations(*models, 5, (40, 56))
    assert one.transformer == sum(cost_study.transformer_operations(models[0], (3, 5, 7), 4))
    many = cost_study.operations(*models, 4, (33, 50), steps=64)
    assert (many.vae, many.transformer) == (one.vae, 64 * one.transformer)


def test_every_second_of_a_restoration_is_in_a_phase():
    restorer = Restorer.load("tiny")
    clip = torch.rand(3, 3, 6, 7, generator=torch.Generator().manual_seed(0))
    restored, seconds = cost_study.phase_seconds(restorer, clip, (24, 28))
    assert torch.equal(restored, restorer(clip, (24, 28)))
    assert tuple(seconds) == cost_study.PHASES and min(seconds.values()) > 0


def test_a_call_of_several_steps_is_timed_as_one_phase():
    _, seconds = cost_study.phase_seconds(Restorer.load("tiny"), torch.rand(3, 1, 4, 4), (16, 16), steps=3)
    assert tuple(seconds) == cost_study.PHASES


@pytest.mark.parametrize("power", [0.5, 1, 2])
def test_exponent_of_a_known_power(power):
    sizes = [3, 10, 40]
    assert cost_study.exponent(sizes, [7 * size**power for size in sizes]) == pytest.approx(power)


def test_bars_end_where_their_parts_do():
    axes = cost_study.part_bars({"a": {"x": 1, "y": 2}, "b": {"y": 4}}, "seconds").axes[0]
    ends = [max(bar[row].get_x() + bar[row].get_width() for bar in axes.containers) for row in (0, 1)]
    assert ends == [3, 4]


def test_ticks_stand_where_they_are_wanted_and_hold_no_powers():
    figure = curve_panels({"cost": {"x": [([64, 4096], [3, 40])]}}, "pixels", logx=True, logy=True)
    axes = cost_study.with_plain_ticks(figure, {"8×8": 64, "64×64": 4096}).axes[0]
    figure.canvas.draw()
    assert [label.get_text() for label in axes.get_xticklabels()] == ["8×8", "64×64"]
    assert axes.get_xticks().tolist() == [64, 4096]
    assert {"5", "10", "20"} <= {label.get_text() for label in axes.get_yticklabels()}


@pytest.mark.parametrize(("size", "parameters"), [("3b", 3.39e9), ("7b", 8.24e9)])
def test_published_models_without_weights_have_the_published_size(size, parameters):
    restorer = cost_study.without_weights(size)
    dit = restorer.generator.dit
    assert sum(value.numel() for value in dit.parameters()) == pytest.approx(parameters, rel=1e-3)
    small, large = (needed(restorer, (side, side), 17, Settings()) for side in (128, 256))
    assert 3 < large / small < 5


@pytest.mark.parametrize("size", ["3b", "7b"])
def test_the_stand_in_goes_the_way_of_published_files_and_leaves_nothing(size):
    tables = dict(TRANSFORMERS), dict(VAES), dict(published.TEXTS), published.folder()
    with cost_study.narrow_stand_in(size) as folder:
        assert published.folder() == folder
        assert {state.split(",")[0] for key, _, state in published.inventory() if key in (size, "vae")} == {"present"}
        restorer = Restorer.load(size)
        names = set(restorer.generator.dit.state_dict())
        restored = restorer(torch.rand(3, 2, 5, 6), (20, 24))
        assert restored.shape == (3, 2, 20, 24) and restored.isfinite().all()
    assert names == set(cost_study.without_weights(size).generator.dit.state_dict())
    assert (dict(TRANSFORMERS), dict(VAES), dict(published.TEXTS), published.folder()) == tables
    assert not folder.exists()
