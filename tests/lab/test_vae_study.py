"""The VAE study: meters that know the answer of made-up codecs, and a figure that shows what it is given."""

import numpy as np
import pytest
import torch
from torch import nn

from seedvr2_lab import config
from seedvr2_lab.console import InputError
from seedvr2_lab.lab import vae_study
from seedvr2_lab.lab.vae_figures import influence_map
from seedvr2_lab.model.vae import VideoVAE


class Halving(nn.Module):
    """A codec that halves every distance from grey."""

    def to_latent(self, clips):
        return clips

    def to_clips(self, latent):
        return (latent - 0.5) / 2 + 0.5


@pytest.fixture(scope="module")
def vae() -> VideoVAE:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return VideoVAE(config.vae_config("small")).eval().requires_grad_(False)


def test_no_latent_changes_before_its_video_frames(vae):
    clip = torch.rand(3, 7, 8, 8, generator=torch.Generator().manual_seed(0))
    changes = vae_study.influence(vae, clip, range(7))
    assert changes.shape == (7, 4)
    for frame, row in enumerate(changes):
        first = -(-frame // 2)
        assert (row[:first] == 0).all()
        assert row[first] > 0


def test_lengths_without_a_latent(vae):
    assert [vae_study.frames_back(vae, frames) for frames in range(1, 6)] == [1, None, 3, None, 5]
    with torch.device("meta"):
        published = VideoVAE()
    assert [vae_study.frames_back(published, frames) for frames in range(1, 6)] == [1, None, None, None, 5]


@pytest.mark.parametrize(("frames", "whole"), [(1, 1), (2, 5), (5, 5), (6, 9)])
def test_padding_repeats_the_last_frame(frames, whole):
    clip = torch.rand(3, frames, 2, 2)
    longer = vae_study.padded(clip, 4)
    assert longer.shape[1] == whole
    assert torch.equal(longer[:, :frames], clip)
    assert (longer[:, frames:] == clip[:, -1:]).all()


def test_an_error_is_found_in_its_own_band():
    x = torch.arange(64) / 64
    slow, fast = (0.2 * torch.sin(2 * torch.pi * cycles * x).expand(3, 64, 64) for cycles in (4, 24))
    errors = vae_study.band_errors(slow + 0.5 * fast, slow + fast, (0.02, 0.2, 0.5))
    assert errors == pytest.approx([0, 0.25], abs=1e-3)


@pytest.mark.parametrize("frequency", [0.05, 0.25, 0.5])
def test_contrast_of_a_codec_that_halves_it(frequency):
    wave = vae_study.grating(frequency, 90, (0.3, -0.3, 0.0))
    assert wave[0].std(dim=0).max() > 0.1  # down the columns
    assert wave.std(dim=2).max() < 1e-4  # not along the rows
    assert vae_study.contrast_kept(Halving(), wave) == pytest.approx(0.5)


def test_a_pan_moves_by_whole_pixels_about_one_middle():
    picture = torch.rand(3, 40, 20)
    clip = vae_study.pan(picture, 3, 5, 16)
    assert torch.equal(clip[:, 0, 3:], clip[:, 1, :-3])
    assert torch.equal(clip[:, 2], vae_study.pan(picture, 0, 5, 16)[:, 2])
    with pytest.raises(InputError, match="go slower"):
        vae_study.pan(picture, 8, 5, 16)


def test_principal_components_of_known_directions():
    generator = torch.Generator().manual_seed(0)
    components = torch.randn(2, 50, 60, generator=generator) * torch.tensor([3.0, 1.0])[:, None, None]
    mix, _ = torch.linalg.qr(torch.randn(5, 5, generator=generator))
    picture, shares = vae_study.principal_picture(torch.einsum("ck,khw->chw", mix[:, :2], components))
    assert shares[:3].tolist() == pytest.approx([0.9, 0.1, 0], abs=0.01)
    alike = np.corrcoef(picture[..., 0].flatten(), components[0].flatten())[0, 1]
    assert abs(alike) > 0.99
    assert picture.min() == 0 and picture.max() == 1


@pytest.mark.parametrize(
    ("margins", "said"),
    [([1, 1.1, 0.9], "held"), ([-1, -1.1, -0.9], "reversed"), ([1, -1, 0.5], "undecided"), ([1, 1], "not testable")],
)
def test_verdict_over_clips(margins, said):
    assert vae_study.judge(margins) == said


def test_the_map_leaves_no_change_white():
    axes = influence_map([[1, 2], [0, 3], [0, 4]], 2).axes[0]
    shown = axes.images[0].get_array()
    assert shown.mask.tolist() == [[False, True, True], [False] * 3]
    assert np.asarray(shown[1]).tolist() == [2, 3, 4]
