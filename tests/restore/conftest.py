"""A model of random weights that restores in no time, in memory and as files."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from seedvr2_lab.config import transformer_config
from seedvr2_lab.media.video import VideoReader
from seedvr2_lab.media.video_writer import VideoWriter
from seedvr2_lab.model.dit import DiT
from seedvr2_lab.model.vae import VAEConfig, VideoVAE
from seedvr2_lab.model.weights import Generator, fixed_text, load_vae, save_generator, save_vae
from seedvr2_lab.restore import Restorer

SMALL_VAE = VAEConfig(
    widths=(4, 4, 4), resnets=1, norm_groups=2, temporal_halvings=1, mid_attention=False, scaling_factor=1.0
)


@pytest.fixture(scope="session")
def model_file(tmp_path_factory):
    """A weight file of a model that starts from noise and can be guided; its VAE lies beside it."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    vae = VideoVAE(SMALL_VAE)
    save_vae(folder / "vae.safetensors", vae, 1.0)
    dit = DiT(transformer_config("study", dim=32, layers=2, heads=1, mlp_hidden=32))
    negative = fixed_text(32, negative=True)
    generator = Generator(dit, fixed_text(32), 1.0, str(folder / "vae.safetensors"), negative_text=negative)
    save_generator(folder / "dit.safetensors", generator)
    assert load_vae(folder / "vae.safetensors").config == SMALL_VAE
    return folder / "dit.safetensors"


@pytest.fixture(scope="session")
def restorer(model_file):
    return Restorer.load(model_file)


@pytest.fixture(scope="session")
def video(tmp_path_factory):
    """video(frames, height, width) -> a lossless clip of a drifting pattern."""
    folder = tmp_path_factory.mktemp("videos")

    def make(frames: int, height: int = 8, width: int = 10):
        path = folder / f"{frames}_{height}x{width}.mkv"
        if not path.exists():
            t, y, x = np.mgrid[:frames, :height, :width]
            pattern = np.stack([7 * x + 3 * t, 9 * y - 2 * t, 5 * (x + y) + t], -1)
            with VideoWriter(path, height, width, Fraction(25), codec="lossless") as writer:
                writer.write((60 + pattern % 120).astype(np.uint8))
        return path

    return make


@pytest.fixture(scope="session")
def pixels():
    """pixels(path) -> all frames of a file, (T, H, W, 3)."""
    return lambda path: np.stack([frame for frame, _ in VideoReader(path)])
