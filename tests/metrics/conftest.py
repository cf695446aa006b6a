"""Pictures and clips with a known fault."""

import pytest
import torch

from seedvr2_lab.media.clips import load_picture


@pytest.fixture
def picture() -> torch.Tensor:
    """Structure plus texture, (3, 72, 96) in [0.2, 0.8]."""
    y, x = torch.meshgrid(torch.linspace(0, 9, 72), torch.linspace(0, 12, 96), indexing="ij")
    waves = torch.stack([(y * x / 9).sin(), (y + x).cos(), (3 * y).sin()]) / 5
    return 0.5 + waves + 0.1 * (torch.rand(3, 72, 96, generator=torch.Generator().manual_seed(0)) - 0.5)


@pytest.fixture(scope="session")
def photo() -> torch.Tensor:
    """(3, 192, 224)."""
    return load_picture("astronaut")[:, 20:212, 120:344]


@pytest.fixture
def noisy():
    """noisy(clip, sigma, seed) adds Gaussian noise."""

    def add(clip: torch.Tensor, sigma: float, seed: int = 1) -> torch.Tensor:
        return clip + sigma * torch.randn(clip.shape, generator=torch.Generator().manual_seed(seed))

    return add


@pytest.fixture
def blurred():
    """blurred(picture, sigma) blurs (C, H, W) with a Gaussian."""
    from skimage.filters import gaussian

    return lambda picture, sigma: torch.from_numpy(gaussian(picture.numpy(), sigma, channel_axis=0))
