"""Schedule, conversions, sampler, guidance and condition against reference tensors (there channels come last)."""

import pytest
import torch
from torch.testing import assert_close

from seedvr2_lab.console import InputError
from seedvr2_lab.model import diffusion

CLOSE = {"rtol": 0, "atol": 1e-5}


@pytest.fixture
def reference(golden):
    return golden("diffusion.safetensors").tensors


def channels_first(x):
    return x.movedim(-1, 0)


def tokens_to_latent(x):  # (tokens, C) -> (C, tokens, 1, 1)
    return x.T[:, :, None, None]


@pytest.mark.parametrize("time", [40, 620, 1000])
def test_path_and_conversions(reference, time):
    x, v = reference["convert.x_t"], reference["convert.pred"]
    assert_close(diffusion.mix(x, v, time), reference[f"forward.t{time}"], **CLOSE)
    assert_close(diffusion.clean_from_velocity(x, v, time), reference[f"convert.t{time}.x0"], **CLOSE)
    assert_close(diffusion.noise_from_velocity(x, v, time), reference[f"convert.t{time}.xT"], **CLOSE)


def test_conversions_undo_the_path_with_one_time_per_clip():
    clean, noise = torch.randn(2, 3, 4, 2, 6, 8).unbind()
    time = torch.tensor([0.0, 333.0, 1000.0])
    x, v = diffusion.mix(clean, noise, time), diffusion.velocity_target(clean, noise)
    assert_close(x[0], clean[0])
    assert_close(x[2], noise[2])
    assert_close(diffusion.clean_from_velocity(x, v, time), clean, **CLOSE)
    assert_close(diffusion.noise_from_velocity(x, v, time), noise, **CLOSE)


@pytest.mark.parametrize("steps", [1, 4, 50])
def test_sampling_times(reference, steps):
    times = torch.tensor(diffusion.sampling_times(steps))
    assert_close(times, reference[f"timesteps.steps{steps}"].float(), rtol=0, atol=1e-4)


def test_no_steps_are_refused():
    with pytest.raises(InputError, match="at least 1"):
        diffusion.sampling_times(0)


def test_euler_step(reference):
    out = diffusion.euler_step(reference["convert.x_t"], reference["convert.pred"], 700, 450)
    assert_close(out, reference["step.700_to_450"], **CLOSE)


@pytest.mark.parametrize("steps", [1, 4])
def test_sampler(reference, steps):
    def velocity(x, time):  # the reference's stand-in for a network
        return 0.5 * x - 0.3 * reference["sampler.cond"] + 0.1 * time / 1000

    out = diffusion.sample(velocity, reference["convert.x_t"], steps)
    assert_close(out, reference[f"sampler.out.steps{steps}"], **CLOSE)


def test_shifted_times(reference):
    times, sizes = reference["timestep_transform.in"], reference["timestep_transform.latent_shapes"]
    for size, expected in zip(sizes.tolist(), reference["timestep_transform.out"], strict=True):
        assert_close(diffusion.shift_time(times, size), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("scale, rescale", [(1.0, 0.0), (6.5, 0.0), (6.5, 0.7)])
def test_guidance(reference, scale, rescale):
    positive, negative = tokens_to_latent(reference["cfg.pos"]), tokens_to_latent(reference["cfg.neg"])
    expected = tokens_to_latent(reference[f"cfg.out.scale{scale}.rescale{rescale}"])
    assert_close(diffusion.guide(positive, negative, scale, rescale), expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 0.1, 0.25])
@pytest.mark.parametrize("case", ["img", "vid"])
def test_condition(reference, case, scale):
    latent, noise = (channels_first(reference[f"cond.{case}.{name}"]) for name in ("latent", "aug_noise"))
    expected = channels_first(reference[f"cond.{case}.scale{scale}.out"])
    assert_close(diffusion.build_condition(latent, noise, scale), expected, **CLOSE)
    batch = diffusion.build_condition(latent[None], noise[None], scale)
    assert_close(batch, expected[None], **CLOSE)


class FakeDiT:
    """Remembers how it was called; predicts the mean of its input channels times the mean of the text."""

    def __init__(self):
        self.calls = []

    def __call__(self, clips, text, time):
        self.calls.append((tuple(clips.shape), time))
        return clips.mean(1, keepdim=True).expand(-1, 4, -1, -1, -1) * text.mean()


@pytest.mark.parametrize("batched", [False, True])
def test_one_step_is_noise_minus_velocity(batched):
    noise, latent, text = torch.randn(4, 2, 6, 8), torch.randn(4, 2, 6, 8), torch.randn(3, 5)
    if batched:
        noise, latent = noise[None], latent[None]
    dit, condition = FakeDiT(), diffusion.build_condition(latent)
    out = diffusion.one_step(dit, noise, condition, text)
    assert dit.calls == [((1, 9, 2, 6, 8), 1000.0)]
    everything = torch.cat([noise, latent, torch.ones_like(latent.narrow(-4, 0, 1))], dim=-4)
    assert_close(out, noise - everything.mean(-4, keepdim=True) * text.mean())


def test_guided_velocity_calls_the_network_twice_and_scale_one_once():
    x, condition = torch.randn(4, 2, 6, 8), torch.randn(5, 2, 6, 8)
    positive, negative = torch.ones(3, 5), torch.zeros(2, 5)
    dit = FakeDiT()
    plain = diffusion.conditioned(dit, condition, positive, negative)(x, 500.0)
    assert len(dit.calls) == 1
    guided = diffusion.conditioned(dit, condition, positive, negative, scale=3.0)(x, 500.0)
    assert len(dit.calls) == 3
    assert_close(guided, 3 * plain)  # the negative velocity is 0
    with pytest.raises(InputError, match="negative text"):
        diffusion.conditioned(dit, condition, positive, scale=3.0)
