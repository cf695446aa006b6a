"""The sizes of the models and of the runs, each in one table.

What a field means stands beside the class it configures: `DiTConfig` in model/dit.py, `VAEConfig` in model/vae.py.
The tables hold plain values so that reading them does not load torch.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from seedvr2_lab.console import InputError

if TYPE_CHECKING:
    from seedvr2_lab.model.dit import DiTConfig
    from seedvr2_lab.model.vae import VAEConfig

# The published geometry spends 16 pixels on a token side, far too many for photographs of 500 pixels: the small VAE
# spends 8. It halves time once, not twice: a linear codec of 16 numbers keeps 37 dB of moving validation clips with 4x4
# pixels of 2 frames, 33 dB with 4 frames.
VAES = {
    "small": dict(
        widths=(16, 32, 64), resnets=1, norm_groups=4, temporal_halvings=1, mid_attention=False, scaling_factor=1.0
    ),
    "published": {},
}

# `reference` is the token grid of the training crops; every other scheme value is the published one.
TRANSFORMERS = {
    "study": dict(dim=96, layers=6, heads=3, mlp_hidden=256, windows=dict(reference=(18, 32))),
    "tiny": dict(dim=128, layers=8, heads=4, mlp_hidden=352, windows=dict(reference=(16, 16))),
    # The published models: 3.4 and 8.2 thousand million parameters.
    "3b": dict(dim=2560, layers=32, heads=20, head_dim=128, separate_layers=10, text_channels=5120, windows={}),
    "7b": dict(variant="v1", dim=3072, layers=36, heads=24, head_dim=128, text_channels=5120, windows={}),
}


@dataclass(frozen=True)
class Profile:
    """How much work a notebook does: `smoke` shows that every line runs, `laptop` and `gpu` give results."""

    seeds: int  # runs of every arm
    train_steps: int  # of one arm
    batch: int
    pool: int  # training pairs encoded once and shared by all arms
    test_crops: int  # per evaluation picture and size


PROFILES = {
    "smoke": Profile(seeds=1, train_steps=6, batch=4, pool=16, test_crops=1),
    "laptop": Profile(seeds=5, train_steps=400, batch=8, pool=1024, test_crops=3),
    "gpu": Profile(seeds=5, train_steps=20_000, batch=32, pool=8192, test_crops=4),
}


def profile(name: str) -> Profile:
    if name not in PROFILES:
        raise InputError(f"there is no profile '{name}': choose one of {', '.join(PROFILES)}")
    return PROFILES[name]


def vae_config(size: str) -> "VAEConfig":
    from seedvr2_lab.model.vae import VAEConfig

    return VAEConfig(**VAES[size])


def transformer_config(size: str, **changes) -> "DiTConfig":
    """The configuration of a size; `changes` are fields of `DiTConfig` (`windows` takes a dict or a WindowScheme)."""
    from seedvr2_lab.model.dit import DiTConfig
    from seedvr2_lab.model.windows import WindowScheme

    fields = TRANSFORMERS[size] | changes
    if isinstance(fields["windows"], dict):
        fields = fields | {"windows": WindowScheme(**fields["windows"])}
    return DiTConfig(**fields)
