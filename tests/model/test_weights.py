"""Weight files: what is saved comes back; what is no weight file is refused in one line."""

import pytest
import torch

from seedvr2_lab.config import transformer_config, vae_config
from seedvr2_lab.console import InputError
from seedvr2_lab.model.dit import DiT
from seedvr2_lab.model.vae import VideoVAE
from seedvr2_lab.model.weights import Generator, fixed_text, load_generator, load_vae, save_generator, save_vae


def halved(module):
    return {name: value.half().float() for name, value in module.state_dict().items()}


def test_a_vae_comes_back_in_half_precision_with_its_scale(tmp_path):
    vae = VideoVAE(vae_config("small"))
    save_vae(tmp_path / "x.safetensors", vae, 0.75)
    loaded = load_vae(tmp_path / "x.safetensors")
    assert loaded.config.scaling_factor == 0.75 and loaded.config.widths == vae.config.widths
    torch.testing.assert_close(loaded.state_dict(), halved(vae), rtol=0, atol=0)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())


def test_a_generator_comes_back_with_configuration_text_and_noise(tmp_path):
    dit = DiT(transformer_config("study"))
    save_generator(tmp_path / "x.safetensors", Generator(dit, fixed_text(96), 1.0))
    loaded = load_generator(tmp_path / "x.safetensors")
    assert loaded.dit.config == dit.config and loaded.noise_scale == 1.0
    assert torch.equal(loaded.text, fixed_text(96).half().float())
    torch.testing.assert_close(loaded.dit.state_dict(), halved(dit), rtol=0, atol=0)


def test_files_that_hold_no_such_model_are_refused_in_one_line(tmp_path):
    (tmp_path / "text.safetensors").write_text("no weights")
    save_vae(tmp_path / "vae.safetensors", VideoVAE(vae_config("small")), 1.0)
    for source, word in [
        ("nowhere", "bundled"),
        (tmp_path / "text.safetensors", "safetensors file"),
        (tmp_path / "vae.safetensors", "no dit"),
    ]:
        with pytest.raises(InputError, match=word) as error:
            load_generator(source)
        assert "\n" not in str(error.value)
