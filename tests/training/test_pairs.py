"""Training pairs: what a restorer is given, and pools that are encoded once."""

import torch

from seedvr2_lab.config import vae_config
from seedvr2_lab.media.clips import sample_clips
from seedvr2_lab.metrics import psnr
from seedvr2_lab.model.vae import VideoVAE
from seedvr2_lab.model.weights import weights_hash
from seedvr2_lab.training import pairs as module
from seedvr2_lab.training.pairs import encode_pairs, latent_pair, low_quality


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def small_vae(seed=0):
    torch.manual_seed(seed)
    return VideoVAE(vae_config("small")).requires_grad_(False)


def test_the_low_quality_twin_is_the_same_picture_with_less_in_it():
    clip = sample_clips("validation", 1, 3, (64, 96), generator())[0]
    low = low_quality(clip, generator())
    assert low.shape == clip.shape and 15 < psnr(low, clip) < 40


@torch.no_grad()
def test_pairs_keep_their_order():
    vae, clips = small_vae(), sample_clips("validation", 3, 1, (32, 32), generator())
    low, high = latent_pair(vae, clips, generator())
    torch.testing.assert_close(high, vae.to_latent(clips))
    first = low_quality(clips[0], generator())
    torch.testing.assert_close(low[:1], vae.to_latent(first[None]))


def test_a_pool_is_encoded_once_and_read_again(tmp_path, monkeypatch):
    vae, seen = small_vae(), []
    monkeypatch.setattr(module, "latent_pair", lambda *given: seen.append(len(given[1])) or latent_pair(*given))
    first = encode_pairs(vae, 5, 1, (32, 32), folder=tmp_path, at_once=2)
    assert seen == [2, 2, 1]
    again = encode_pairs(vae, 5, 1, (32, 32), folder=tmp_path, at_once=2)
    assert seen == [2, 2, 1] and all(torch.equal(*parts) for parts in zip(first, again, strict=True))
    for changed in (
        {"count": 3},
        {"frames": 3},
        {"size": (40, 32)},
        {"seed": 1},
        {"vae": small_vae(1)},
        {"vary": True},
    ):
        asked = {"vae": vae, "count": 5, "frames": 1, "size": (32, 32), "seed": 0} | changed
        other = encode_pairs(**asked, folder=tmp_path)
        assert other.low_BCTHW.shape != first.low_BCTHW.shape or not torch.equal(other.low_BCTHW, first.low_BCTHW)


def test_a_batch_keeps_its_pairs_together():
    pool = encode_pairs(small_vae(), 6, 1, (32, 32))
    low, high = pool.draw(20, generator())
    rows = [(pool.low_BCTHW == row).flatten(1).all(1).nonzero().item() for row in low]
    assert len(set(rows)) > 1 and torch.equal(high, pool.high_BCTHW[rows])


def test_weights_hash_sees_one_changed_weight():
    model = torch.nn.Linear(3, 2)
    before = weights_hash(model)
    assert weights_hash(model) == before
    with torch.no_grad():
        model.weight[1, 2] += 1e-4
    assert weights_hash(model) != before
