"""Texture and spectrum of clips that were scaled, blurred, sharpened, shuffled or shifted by a known amount."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seedvr2_lab.media.clips import load_picture
from seedvr2_lab.metrics import high_frequency_ratio, psnr, spectrum_distance, texture_distance
from seedvr2_lab.metrics.texture import ROUNDING

METERS = (texture_distance, spectrum_distance, high_frequency_ratio)


@settings(max_examples=8, deadline=None)
@given(st.floats(0.3, 3))
def test_contrast_times_c_has_known_values(c):
    """All three see the same structure, c times as strong: |1 - c|, |20 log c| dB and c squared."""
    noise = torch.rand(3, 2, 48, 64, generator=torch.Generator().manual_seed(0))
    values = [meter(0.5 + c * (noise - 0.5), noise) for meter in METERS]
    assert values == pytest.approx([abs(1 - c), abs(20 * math.log10(c)), c**2], rel=1e-3, abs=1e-4)


def test_equal_clips_have_no_distance(photo):
    clip = torch.stack([photo, photo.flip(-1)], 1)
    assert [meter(clip, clip) for meter in METERS] == [0, 0, 1]


def test_a_frame_without_texture_has_distance_one(photo):
    assert texture_distance(torch.full_like(photo, 0.5), photo) == 1
    assert high_frequency_ratio(torch.full_like(photo, 0.5), photo) == pytest.approx(0, abs=1e-12)


def test_more_blur_is_further_away(photo, blurred):
    clips = [blurred(photo, sigma) for sigma in (0.5, 1, 2, 4)]
    texture, spectrum, ratio = ([meter(clip, photo) for clip in clips] for meter in METERS)
    assert texture == sorted(texture) and spectrum == sorted(spectrum)
    assert ratio == sorted(ratio, reverse=True) and ratio[0] < 1


def test_noise_and_sharpening_have_too_much(photo, noisy, blurred):
    for clip in (noisy(photo, 0.05), 2 * photo - blurred(photo, 1)):
        assert high_frequency_ratio(clip, photo) > 1.2
        assert texture_distance(clip, photo) > 0.1 and spectrum_distance(clip, photo) > 1


def test_white_noise_has_the_energy_it_was_given():
    """White noise of 5 sigma over white noise of sigma, and the share of the plane that counts as high."""
    weak, strong = (
        0.5 + sigma * torch.randn(3, 128, 160, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for seed, sigma in ((0, 0.02), (1, 0.1))
    )
    assert high_frequency_ratio(strong, weak) == pytest.approx(25, rel=0.05)
    assert spectrum_distance(strong, weak) == pytest.approx(20 * math.log10(5), rel=0.05)
    assert texture_distance(strong, weak) == pytest.approx(4, rel=0.05)


def test_the_right_texture_in_another_place_is_near():
    """Grass beside the grass: PSNR prefers a grey frame, the texture meters do not."""
    grass = load_picture("grass")
    here, there = grass[:, :160, :160], grass[:, 200:360, 160:320]
    grey = torch.full_like(here, float(here.mean()))
    assert psnr(grey, here) > psnr(there, here) + 2
    assert texture_distance(there, here) < 0.2 < texture_distance(grey, here)
    assert spectrum_distance(there, here) < 2 < spectrum_distance(grey, here)


def test_a_reference_without_texture_gives_no_number(picture):
    smooth = torch.linspace(0, 1, 96).expand(3, 72, 96) + ROUNDING / 10 * picture
    assert math.isnan(texture_distance(picture, smooth)) and math.isnan(high_frequency_ratio(picture, smooth))
    flat = torch.full_like(picture, 0.25)
    assert spectrum_distance(flat, flat) == 0


def test_rounding_to_eight_bits_is_where_the_spectrum_begins(noisy):
    flat = torch.full((3, 96, 128), 0.5, dtype=torch.float64)
    assert spectrum_distance(noisy(flat, 10 * ROUNDING), flat) == pytest.approx(20, abs=0.5)
    assert spectrum_distance(noisy(flat, ROUNDING / 10), flat) == 0


def test_the_same_call_gives_the_same_number(photo, noisy):
    restored = noisy(photo, 0.02)
    assert texture_distance(restored, photo) == texture_distance(restored, photo)
