"""Weight files: what is saved comes back, published files are known by their layout, anything else is refused."""

import gzip
import hashlib
import json
from math import prod
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from seedvr2_lab.config import TRANSFORMERS, VAES, transformer_config, vae_config
from seedvr2_lab.console import InputError
from seedvr2_lab.model import published
from seedvr2_lab.model.dit import DiT
from seedvr2_lab.model.tensor_file import empty, fill
from seedvr2_lab.model.vae import VideoVAE
from seedvr2_lab.model.weights import (
    Generator,
    fixed_text,
    load_generator,
    load_vae,
    published_text,
    save_generator,
    save_vae,
)

NAMES = json.loads(gzip.decompress((Path(__file__).parents[1] / "goldens/published_names.json.gz").read_bytes()))
NARROW = dict(dim=16, heads=2, head_dim=16, mlp_hidden=24, text_channels=40)  # all names of the published layouts


def halved(module):
    return {name: value.half().float() for name, value in module.state_dict().items()}


def shapes(module):
    return {name: list(value.shape) for name, value in module.state_dict().items()}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The folder of the published weights, with a positive text in it."""
    folder = tmp_path / "published"
    folder.mkdir()
    monkeypatch.setenv(published.FOLDER, str(folder))
    torch.save(torch.randn(58, 40).bfloat16(), folder / "pos_emb.pt")
    checksum = hashlib.sha256((folder / "pos_emb.pt").read_bytes()).hexdigest()
    monkeypatch.setitem(published.TEXTS, "pos_emb.pt", checksum)
    return folder


@pytest.fixture
def narrow(folder, monkeypatch):
    """The same names in narrow widths: narrow(size) -> a state dict of random numbers."""
    for size in ("3b", "7b"):
        monkeypatch.setitem(TRANSFORMERS, size, TRANSFORMERS[size] | NARROW)
    monkeypatch.setitem(VAES, "published", dict(widths=(8, 8, 8, 8), norm_groups=4))
    return lambda size: DiT(transformer_config(size)).state_dict()


def test_a_vae_comes_back_in_half_precision_with_its_scale(tmp_path):
    vae = VideoVAE(vae_config("small"))
    save_vae(tmp_path / "x.safetensors", vae, 0.75)
    loaded = load_vae(tmp_path / "x.safetensors")
    assert loaded.config.scaling_factor == 0.75 and loaded.config.widths == vae.config.widths
    torch.testing.assert_close(loaded.state_dict(), halved(vae), rtol=0, atol=0)
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())


def test_a_generator_comes_back_with_configuration_text_noise_and_vae(tmp_path):
    dit = DiT(transformer_config("study"))
    save_generator(tmp_path / "x.safetensors", Generator(dit, fixed_text(96), 1.0, "other"))
    loaded = load_generator(tmp_path / "x.safetensors")
    assert loaded.dit.config == dit.config and loaded.noise_scale == 1.0 and loaded.vae == "other"
    assert torch.equal(loaded.text, fixed_text(96).half().float())
    assert (loaded.steps, loaded.guidance, loaded.negative_text) == (1, 1.0, None)
    torch.testing.assert_close(loaded.dit.state_dict(), halved(dit), rtol=0, atol=0)


def test_a_teacher_comes_back_with_steps_guidance_and_negative_text(tmp_path):
    dit, texts = DiT(transformer_config("study")), [fixed_text(96, negative=negative) for negative in (False, True)]
    assert not torch.equal(*texts)
    teacher = Generator(dit, texts[0], 1.0, steps=64, guidance=1.5, negative_text=texts[1])
    save_generator(tmp_path / "x.safetensors", teacher)
    loaded = load_generator(tmp_path / "x.safetensors")
    assert (loaded.steps, loaded.guidance) == (64, 1.5)
    assert torch.equal(loaded.negative_text, texts[1].half().float())


@pytest.mark.parametrize("size", ["3b", "7b"])
def test_the_published_transformers_have_the_published_names_and_shapes(size):
    assert shapes(empty(lambda: DiT(transformer_config(size)))) == NAMES[size]


def test_the_published_vae_has_the_published_names_and_shapes():
    assert shapes(empty(lambda: VideoVAE(vae_config("published")))) == NAMES["vae"]
    assert vae_config("published").scaling_factor == 0.9152


def write_stride_0(path, names):
    """A .pth of one number a tensor, repeated without memory."""
    torch.save({name: torch.zeros(1).bfloat16().expand(shape) for name, shape in names.items()}, path)


def write_sparse(path, names):
    """A .safetensors that is a hole behind its header: zeros that take no place on the disk."""
    header, end = {}, 0
    for name, shape in names.items():
        start, end = end, end + 2 * prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


@pytest.mark.parametrize(
    ("size", "write", "suffix"),
    [
        ("3b", write_stride_0, ".pth"),
        ("7b", write_stride_0, ".pth"),
        pytest.param("3b", write_sparse, ".safetensors", marks=pytest.mark.slow),  # the hole fills the page cache
    ],
)
def test_the_full_published_layouts_load_strictly_and_take_no_memory(folder, tmp_path, size, write, suffix):
    path = tmp_path / f"unnamed{suffix}"
    write(path, NAMES[size])
    generator = load_generator(path, dtype="file")
    assert generator.dit.config == transformer_config(size)  # recognised
    assert shapes(generator.dit) == NAMES[size]
    assert all(value.dtype == torch.bfloat16 and not value.any() for value in list(generator.dit.buffers()))
    status = Path("/proc/self/status")
    if status.exists():  # 6.8 and 16.5 GB of weights
        (resident,) = [int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmRSS")]
        assert resident < 3e6
    names = dict(NAMES[size])
    del names["blocks.7.attn.rope.rope.freqs"]
    write(path, names | {"blocks.0.more": [1], "vid_in.proj.bias": [7]})
    with pytest.raises(InputError) as error:
        load_generator(path, dtype="file")
    for fault in ("1 missing (blocks.7.attn.rope.rope.freqs)", "1 unexpected (blocks.0.more)", "bias [7] instead of"):
        assert fault in str(error.value)


@pytest.mark.parametrize(
    ("size", "suffix", "dtype"),
    [
        ("3b", ".pth", None),
        ("3b", ".safetensors", "file"),
        ("7b", ".pth", torch.float32),
        ("7b", ".safetensors", None),
    ],
)
def test_published_files_are_known_by_name_and_by_layout(narrow, folder, tmp_path, size, suffix, dtype):
    state = narrow(size)
    target = folder / f"seedvr2_ema_{size}.pth" if suffix == ".pth" else tmp_path / "any.safetensors"
    torch.save(state, target) if suffix == ".pth" else save_file(state, target, metadata={"format": "pt", "by": "me"})
    generator = load_generator(size if suffix == ".pth" else target, dtype)
    assert generator.dit.config == transformer_config(size)
    assert generator.noise_scale == 1 and generator.vae == "published"
    kind = {None: torch.bfloat16, "file": torch.float32}.get(dtype, dtype)
    assert torch.equal(generator.text, published_text().to(kind)) and generator.text.shape == (58, 40)
    for name, value in generator.dit.state_dict().items():
        wanted = torch.float32 if name.endswith("freqs") else kind
        torch.testing.assert_close(value, state[name].to(wanted), rtol=0, atol=0)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_the_published_vae_may_have_old_names_and_others_beside(narrow, folder, tmp_path, suffix):
    vae = VideoVAE(vae_config("published"))
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {"loss.logvar": torch.zeros(1)}
    for name, value in vae.state_dict().items():
        for new, former in old.items():
            name = name.replace(f".{new}.", f".{former}.")
        state[name] = value
    assert not any("to_q" in name for name in state)
    path = folder / "ema_vae.pth" if suffix == ".pth" else tmp_path / "any.safetensors"
    torch.save(state, path) if suffix == ".pth" else save_file(state, path)
    loaded = load_vae("published" if suffix == ".pth" else path, torch.float32)
    assert loaded.config == vae_config("published")
    torch.testing.assert_close(loaded.state_dict(), vae.state_dict(), rtol=0, atol=0)
    assert load_vae(path).encoder.conv_in.weight.dtype == torch.bfloat16


def test_files_that_hold_no_such_model_are_refused_in_one_line(narrow, folder, tmp_path):
    (tmp_path / "text.pth").write_text("no weights")
    (tmp_path / "empty.safetensors").touch()
    save_vae(tmp_path / "vae.safetensors", VideoVAE(vae_config("small")), 1.0)
    save_generator(tmp_path / "dit.safetensors", Generator(DiT(transformer_config("study")), fixed_text(96), 1.0))
    torch.save(narrow("7b"), folder / "seedvr2_ema_3b.pth")
    torch.save(VideoVAE(vae_config("published")).state_dict(), folder / "ema_vae.pth")
    own = load_file(tmp_path / "vae.safetensors")
    save_file(own, tmp_path / "newer.safetensors", {"kind": '"vae"', "config": '{"colour": 3}'})
    save_file(own, tmp_path / "broken.safetensors", {"kind": "vae"})
    save_file(own, tmp_path / "listed.safetensors", {"kind": '"vae"', "config": "[]"})
    save_file(own, tmp_path / "textless.safetensors", {"kind": '"dit"', "config": '{"windows": {}}'})
    for load, source, word in [
        (load_generator, "nowhere", r"bundled \(.*tiny.*\) nor published \(3b, 7b\)"),
        (load_generator, tmp_path, "neither a file"),
        (load_generator, tmp_path / "text.pth", "text.pth is no safetensors file"),
        (load_generator, tmp_path / "empty.safetensors", "empty.safetensors is no safetensors file"),
        (load_generator, tmp_path / "vae.safetensors", "no dit"),
        (load_generator, folder / "ema_vae.pth", "holds no transformer"),
        (load_generator, "3b", r"seedvr2_ema_3b.pth does not fit DiT: \d+ missing"),
        (load_generator, "7b", "seedvr2-lab weights 7b"),
        (load_generator, tmp_path / "textless.safetensors", "no text"),
        (load_vae, "nowhere", r"nor published \(published\)"),
        (load_vae, tmp_path / "dit.safetensors", "no vae"),
        (load_vae, folder / "seedvr2_ema_3b.pth", r"does not fit VideoVAE: \d+ missing"),
        (load_vae, tmp_path / "newer.safetensors", "header .*colour"),
        (load_vae, tmp_path / "broken.safetensors", "header"),
        (load_vae, tmp_path / "listed.safetensors", "header"),
    ]:
        with pytest.raises(InputError, match=word) as error:
            load(source)
        assert "\n" not in str(error.value)
    (folder / "pos_emb.pt").unlink()
    with pytest.raises(InputError, match=r"pos_emb.pt is not in"):
        load_generator(folder / "seedvr2_ema_3b.pth")


def test_rotary_frequencies_stay_exact_beside_half_precision_weights(narrow, tmp_path):
    torch.save(narrow("7b"), tmp_path / "x.pth")
    dit = fill(DiT(transformer_config("7b")), tmp_path / "x.pth", torch.bfloat16)
    assert torch.equal(dit.blocks[3].attn.rope.rope.freqs, narrow("7b")["blocks.3.attn.rope.rope.freqs"])
