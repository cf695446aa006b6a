"""The study of metrics: damages that do what they say, a ranking with known answers, and metrics with known faults."""

from math import inf, isnan, nan

import pytest
import torch

from seedvr2_lab.console import InputError
from seedvr2_lab.lab import metric_study
from seedvr2_lab.lab.metric_study import DAMAGES, agreement, cost, damaged, mean_reading, scrambled, shifted
from seedvr2_lab.media.clips import sample_clips
from seedvr2_lab.metrics import psnr
from seedvr2_lab.model.weights import load_generator, load_vae


@pytest.fixture(scope="module")
def clip():
    return sample_clips("validation", 3, 3, (96, 96), torch.Generator().manual_seed(4))[2]


@pytest.mark.parametrize("name", [name for name in DAMAGES if name != "shift"])
def test_every_grade_is_further_from_the_original(clip, name):
    results = [damaged(clip, name, grade) for grade in DAMAGES[name].grades]
    assert all(result.shape == clip.shape and result.min() >= 0 and result.max() <= 1 for result in results)
    found = [psnr(result, clip) for result in results]
    assert found == sorted(found, reverse=True) and found[0] > found[-1] + 3


def test_an_unknown_damage_is_named_with_the_known_ones(clip):
    with pytest.raises(InputError, match="no damage 'rust': choose from blur"):
        damaged(clip, "rust", 1)


def test_a_shift_moves_whole_pixels_and_repeats_the_edge(clip):
    moved = shifted(clip, 2)
    assert torch.equal(moved[:, :, 2:, 2:], clip[:, :, :-2, :-2])
    assert torch.equal(moved[:, :, 0, 2:], clip[:, :, 0, :-2])


def test_noise_stands_still_or_is_fresh(clip):
    grey = torch.full_like(clip, 0.5)
    still, fresh = (damaged(grey, kind, 0.04) for kind in ("still noise", "fresh noise"))
    assert torch.equal(still[:, 0], still[:, 1]) and not torch.equal(fresh[:, 0], fresh[:, 1])
    for noisy in (still, fresh):
        assert (noisy - grey).std() == pytest.approx(0.04, rel=0.03)
    again, other = damaged(grey, "still noise", 0.04), damaged(grey, "still noise", 0.04, seed=1)
    assert torch.equal(still, again) and not torch.equal(still, other)


def test_scrambling_keeps_slow_waves_and_all_energy(clip):
    middle = 0.4 + 0.2 * clip  # far from black and white: nothing is clipped
    result = scrambled(middle, 1 / 8, torch.Generator().manual_seed(0))
    before, after = (torch.fft.fft2(each.double()) for each in (middle, result))
    frequency = torch.hypot(torch.fft.fftfreq(96)[:, None], torch.fft.fftfreq(96))
    torch.testing.assert_close(after.abs(), before.abs(), rtol=1e-3, atol=1e-3)
    slow = frequency <= 1 / 8
    torch.testing.assert_close(after[..., slow], before[..., slow], rtol=1e-3, atol=1e-3)
    assert (after - before)[..., ~slow].abs().mean() > before[..., ~slow].abs().mean()


@pytest.mark.parametrize(
    ("costs", "expected"), [([1, 2, 3], 1), ([4, 3, 2, 1], -1), ([1, 1, 1], 0), ([2, 1, 3], 1 / 3), ([0, 1, 1], 2 / 3)]
)
def test_agreement_is_kendalls_tau(costs, expected):
    assert agreement(costs) == pytest.approx(expected)


def test_agreement_without_a_number_is_none_and_rounding_is_a_tie():
    assert isnan(agreement([1, nan, 3]))
    assert agreement([1.0, 1.0 + 1e-9]) == 0


def test_costs_turn_every_metric_the_same_way():
    assert cost("psnr", 30) < cost("psnr", 20) and cost("piqe", 20) < cost("piqe", 30)
    assert cost("high_frequency", 2) == pytest.approx(cost("high_frequency", 0.5))
    assert cost("high_frequency", 1) == 0 and cost("high_frequency", 0) < inf


def test_tables_of_a_survey_know_what_is_known(clip):
    keys = {(0, 0): clip, (1, 0): clip.flip(-1)}
    readings = list(metric_study.survey(keys, ["psnr", "warping", "flicker"], [0, 3]).values())
    agreements, responses = metric_study.agreement_table(readings), metric_study.response_table(readings)
    assert list(agreements) == list(DAMAGES)
    assert all(row["psnr"] == 1 for name, row in agreements.items() if name != "shift")
    assert agreements["blur"]["warping"] == -1 and agreements["darker"]["warping"] == -1  # no detail is steady
    assert responses["fresh noise"]["flicker"] > 2 > 0.3 > abs(responses["still noise"]["flicker"])
    figure = metric_study.damage_map(agreements, 1, "agreement")
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == list(DAMAGES)
    assert figure.axes[0].texts[0].get_text() == "+1.0" and "−1.0" in {text.get_text() for text in figure.axes[0].texts}


def test_missing_metrics_are_named_with_their_reason(clip):
    missing = metric_study.reasons(["psnr", "ms_ssim"], clip)
    assert list(missing) == ["ms_ssim"] and "161 pixels" in missing["ms_ssim"]


def test_a_mean_leaves_out_clips_without_a_number(clip):
    noisy = damaged(clip, "fresh noise", 0.04)
    assert mean_reading("psnr", [clip, noisy], [clip, clip]) == psnr(noisy, clip)  # a clip against itself is infinite


def test_a_restoration_is_repeatable_and_depends_on_the_input(clip):
    vae, made = load_vae("small"), load_generator("tiny")
    low = metric_study.shrunk(clip, 4)
    first, again = (metric_study.restored(made, vae, low[None], seed=0)[0] for _ in range(2))
    assert torch.equal(first, again) and first.shape == clip.shape
    assert psnr(first, clip) > psnr(low, clip) - 3
    assert not torch.equal(first, metric_study.restored(made, vae, clip[None], seed=0)[0])
