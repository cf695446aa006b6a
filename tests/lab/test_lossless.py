"""The codec that loses nothing, and the models that are trained in its latents."""

import torch

from seedvr2_lab.lab import lossless
from seedvr2_lab.lab.lossless import PixelUnshuffle, lossless_models
from seedvr2_lab.media.clips import sample_clips
from seedvr2_lab.training.pairs import encode_pairs


def test_nothing_is_lost():
    clips = torch.rand(2, 3, 5, 24, 32, generator=torch.Generator().manual_seed(0))
    codec = PixelUnshuffle()
    latent = codec.to_latent(clips)
    assert latent.shape == (2, 48, 5, 6, 8)
    torch.testing.assert_close(codec.to_clips(latent), clips)
    # Neighbours stay together: the first token's channels are the first 4x4 pixels.
    first = (clips[0, :, 0, :4, :4].flatten() - lossless.MEAN) / lossless.STD
    torch.testing.assert_close(latent[0, :, 0, 0, 0], first)


def test_latents_have_about_unit_variance():
    clips = sample_clips("training", 64, 1, (64, 64), torch.Generator().manual_seed(0))
    latent = PixelUnshuffle().to_latent(clips)
    assert 0.7 < latent.std() < 1.4 and abs(latent.mean()) < 0.4


def test_models_are_trained_once_and_go_to_one_step(tmp_path, monkeypatch):
    batches = [(encode_pairs(PixelUnshuffle(), 4, 1, (64, 64)), 2)]
    made = lossless_models(batches, 1, "cpu", tmp_path)
    assert (made["teacher"].steps, made["distilled"].steps) == (64, 1)
    assert made["teacher"].dit.config.in_channels == 97 and made["distilled"].dit.config.out_channels == 48
    assert sorted(path.name for path in tmp_path.glob("*/*/log.jsonl")) == ["log.jsonl"] * 7  # teacher, six halvings
    low = batches[0][0].low_BCTHW
    assert made["distilled"].restore(low, torch.randn(low.shape)).shape == low.shape
    monkeypatch.setattr(lossless, "train", None)  # nothing may be trained again
    again = lossless_models(batches, 1, "cpu", tmp_path)
    for name, model in made.items():
        for key, value in model.dit.state_dict().items():
            assert torch.equal(value, again[name].dit.state_dict()[key])
