"""The discriminator: where it looks, what it starts from, and that clips of a batch do not mix."""

from dataclasses import replace

import pytest
import torch

from seedvr2_lab.config import transformer_config
from seedvr2_lab.console import InputError
from seedvr2_lab.model.discriminator import Discriminator, DiscriminatorConfig
from seedvr2_lab.model.dit import DiT, DiTConfig
from seedvr2_lab.training.losses import approximate_penalty, exact_penalty

SIZES = ((16, 1, 8, 12), (16, 3, 4, 6), (16, 2, 10, 4))
TEXT = torch.randn(4, 96, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def discriminator():
    torch.manual_seed(0)
    return Discriminator.from_teacher(DiT(transformer_config("study")))


def clips(sizes=SIZES, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size, generator=generator, dtype=dtype) for size in sizes]


@pytest.mark.parametrize(("layers", "blocks"), [(36, (16, 26, 36)), (32, (15, 24, 32)), (6, (3, 5, 6)), (1, (1,))])
def test_default_blocks_stand_at_the_published_fractions(layers, blocks):
    assert DiscriminatorConfig(DiTConfig(layers=layers)).blocks == blocks


@pytest.mark.parametrize("blocks", [(), (0,), (7,), (3, 9)])
def test_blocks_that_do_not_exist_are_refused(blocks):
    with pytest.raises(InputError, match="blocks are"):
        DiscriminatorConfig(DiTConfig(layers=6), blocks)


def test_the_backbone_starts_as_the_teacher():
    torch.manual_seed(1)
    teacher = DiT(transformer_config("study"))
    copy = Discriminator.from_teacher(teacher).backbone.state_dict()
    assert all(torch.equal(value, copy[name]) for name, value in teacher.state_dict().items())


@torch.no_grad()
def test_features_are_the_backbones_activations_before_the_queries(discriminator):
    low, high = clips(seed=1), clips(seed=2)
    judgement = discriminator(high, low, TEXT, 300.0)
    inputs = [torch.cat([b, a, torch.ones(1, *a.shape[1:])]) for a, b in zip(low, high, strict=True)]
    _, expected = discriminator.backbone(inputs, TEXT, 300.0, return_blocks=(2, 4, 5))
    assert judgement.lengths == (24, 18, 20)
    assert all(torch.equal(*pair) for pair in zip(judgement.features, expected, strict=True))


@torch.no_grad()
def test_a_batch_judges_as_single_clips_do(discriminator):
    low, high = clips(seed=1), clips(seed=2)
    together = discriminator(high, low, TEXT, 500.0).logits_B
    alone = [discriminator([b], [a], TEXT, 500.0).logits_B for a, b in zip(low, high, strict=True)]
    torch.testing.assert_close(together, torch.cat(alone), atol=2e-5, rtol=0)
    low, high = torch.stack(clips([SIZES[1]] * 2, 3)), torch.stack(clips([SIZES[1]] * 2, 4))
    as_list = discriminator(list(high), list(low), TEXT, 500.0).logits_B
    torch.testing.assert_close(discriminator(high, low, TEXT, 500.0).logits_B, as_list, atol=2e-5, rtol=0)


@torch.no_grad()
def test_clip_condition_and_time_all_matter(discriminator):
    low, high, other = clips(seed=1), clips(seed=2), clips(seed=3)
    logits = discriminator(high, low, TEXT, 500.0).logits_B
    for changed in ((other, low, TEXT, 500.0), (high, other, TEXT, 500.0), (high, low, TEXT, 900.0)):
        assert (discriminator(*changed).logits_B - logits).abs().min() > 1e-4


def test_penalties_of_the_real_thing_agree_for_small_sigma():
    """One forward pass with noise against the double backward, in float64 on the reference path of attention."""
    torch.manual_seed(0)
    config = replace(transformer_config("study"), layers=2, attention="reference")
    discriminator = Discriminator(DiscriminatorConfig(config)).double()
    low, high = clips([SIZES[1]], 1, torch.float64)[0][None], clips([SIZES[1]], 2, torch.float64)[0][None]

    def critic(x):
        return discriminator(x, low.expand(len(x), -1, -1, -1, -1), TEXT.double(), 300.0).logits_B

    exact = exact_penalty(critic, high)
    exact.sum().backward()
    assert discriminator.backbone.blocks[0].attn.proj_qkv.all.weight.grad.abs().max() > 0

    draws, sigma = 600, 1e-3
    with torch.no_grad():
        many, generator = high.expand(draws, -1, -1, -1, -1), torch.Generator().manual_seed(5)
        noise = torch.randn(many.shape, generator=generator, dtype=torch.float64)
        found = approximate_penalty(critic, many, critic(high).expand(draws), sigma, noise)
    error = found.std() / draws**0.5  # of the mean
    assert abs(found.mean() - sigma**2 * exact.detach()[0]) < 4 * error
