"""The whole pipeline: equal to the published one stage by stage, and at work with weights in the published layout."""

import hashlib
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange
from torch.testing import assert_close

from seedvr2_lab.cli import main
from seedvr2_lab.config import TRANSFORMERS, VAES, transformer_config, vae_config
from seedvr2_lab.media.degrade import resize
from seedvr2_lab.media.transform import area_size, crop_box, padded_length, to_area
from seedvr2_lab.media.video import VideoReader
from seedvr2_lab.media.video_writer import VideoWriter
from seedvr2_lab.model import published
from seedvr2_lab.model.diffusion import build_condition, conditioned, sample
from seedvr2_lab.model.dit import DiT, DiTConfig
from seedvr2_lab.model.vae import VAEConfig, VideoVAE
from seedvr2_lab.model.weights import Generator
from seedvr2_lab.restore import Restorer
from seedvr2_lab.restore.restorer import noise_at

EXACT = {"rtol": 0, "atol": 1e-5}
CLOSE = {"rtol": 0, "atol": 1e-4}


def test_sizes_crops_and_frame_counts_are_the_published_ones(golden):
    table = golden("resize_pad.json")
    for row in table["resize"]:
        size = area_size(tuple(row["in"]), tuple(row["res_h_w"]))
        rows, columns = crop_box(size)
        assert list(size) == row["resized"]
        assert [rows.stop - rows.start, columns.stop - columns.start] == row["cropped"]
        assert [rows.start, columns.start] == row["crop_top_left"]
    for row in table["frame_padding"]:
        assert padded_length(row["frames"], 4 * row["sp_size"]) == row["padded"]


@pytest.mark.parametrize("case", ["down", "odd", "up"])
def test_pixels_before_the_vae_are_the_published_ones(golden, case):
    tensors = golden("transform.safetensors").tensors
    frames_TCHW = tensors[f"{case}.in_uint8_tchw"].float() / 255
    resized = tensors[f"{case}.resized_unclamped"]
    assert_close(resize(frames_TCHW, tuple(resized.shape[-2:])), resized.clamp(0, 1), **EXACT)
    ours = to_area(frames_TCHW, tuple(tensors[f"{case}.res_hw"].tolist()))
    assert_close(ours.transpose(0, 1) * 2 - 1, tensors[f"{case}.out_cthw"], **EXACT)


def load(golden, name, config, make):
    weights = golden(f"{name}_weights.safetensors")
    module = make(config(weights.meta["config"]))
    module.load_state_dict(weights.tensors, strict=True)
    return module.eval().requires_grad_(False)


def channels_first(latent_THWC):
    return rearrange(latent_THWC, "T H W C -> 1 C T H W")


@pytest.mark.parametrize("dit_name", ["dit_v1_a", "dit_v2_a"])
@pytest.mark.parametrize("clip", ["vid9", "img"])
def test_from_clip_to_restored_pixels_as_published(golden, dit_name, clip):
    tensors = golden(f"pipeline_{dit_name}.safetensors").tensors
    given = {
        name: tensors[f"{clip}.in.{name}"] for name in ("video_cthw", "posterior_noise_bcthw", "text_pos", "text_neg")
    }
    noise, aug_noise = (channels_first(tensors[f"{clip}.in.{name}_thwc"]) for name in ("noise", "aug_noise"))
    dit = load(golden, dit_name, DiTConfig.from_published, DiT)
    vae = load(golden, "vae_a", VAEConfig.from_published, VideoVAE)
    scale = vae.config.scaling_factor

    mean, log_variance = vae.posterior(given["video_cthw"][None])
    latent = (mean + (0.5 * log_variance).exp() * given["posterior_noise_bcthw"]) * scale
    assert_close(latent, channels_first(tensors[f"{clip}.latent_thwc"]), **CLOSE)
    for steps, guidance, noise_scale in ((1, 1.0, 0.0), (3, 6.5, 0.1)):
        expected = {
            name: tensors[f"{clip}.steps{steps}_cfg{guidance}_noise{noise_scale}.{name}"]
            for name in ("condition", "restored_latent_thwc", "sample")
        }
        condition = build_condition(latent, aug_noise, noise_scale)
        assert_close(condition, channels_first(expected["condition"]), **CLOSE)
        velocity = conditioned(dit, condition, given["text_pos"], given["text_neg"], guidance)
        restored = sample(velocity, noise, steps)
        assert_close(restored, channels_first(expected["restored_latent_thwc"]), **CLOSE)
        pixels = vae.decode(restored / scale)[0]
        assert_close(pixels, expected["sample"].view_as(pixels), **CLOSE)


@pytest.mark.parametrize("dit_name", ["dit_v1_a", "dit_v2_a"])
def test_the_restorer_does_what_its_stages_do_one_by_one(golden, dit_name):
    """Same noise, same resized clip: the stages of the published pipeline, but with the posterior's mode."""
    tensors = golden(f"pipeline_{dit_name}.safetensors").tensors
    dit = load(golden, dit_name, DiTConfig.from_published, DiT)
    vae = load(golden, "vae_a", VAEConfig.from_published, VideoVAE)
    text, clip = tensors["vid9.in.text_pos"], tensors["vid9.in.video_cthw"] / 2 + 0.5
    restored = Restorer(Generator(dit, text, 1.0), vae)(clip, (48, 64), seed=3, color="none")
    latent = vae.posterior(clip[None] * 2 - 1)[0] * vae.config.scaling_factor
    noise = noise_at(latent.shape[1:], seed=3, first=0)[None]
    latent = noise - dit(torch.cat([noise, build_condition(latent)], 1), text, 1000.0)
    assert_close(restored, (vae.decode(latent / vae.config.scaling_factor)[0] / 2 + 0.5).clamp(0, 1), **CLOSE)


def publish(folder, size, text_width, side):
    """Random weights in bfloat16 under the published names, a text and a clip of 5 frames; the text's checksum."""
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        torch.save(DiT(transformer_config(size)).state_dict(), folder / published.FILES[size].name)
        torch.save(VideoVAE(vae_config("published")).state_dict(), folder / published.FILES["vae"].name)
        torch.save(torch.randn(58, text_width), folder / "pos_emb.pt")
    finally:
        torch.set_default_dtype(torch.float32)
    frames = np.random.default_rng(0).integers(0, 255, (5, side, side, 3), dtype=np.uint8)
    with VideoWriter(folder / "low.mp4", side, side, Fraction(25)) as writer:
        writer.write(frames)
    return hashlib.sha256((folder / "pos_emb.pt").read_bytes()).hexdigest()


@pytest.mark.parametrize("size", ["3b", "7b"])
def test_restore_works_with_published_files(size, tmp_path, monkeypatch, capsys):
    """All names of the published layouts, in narrow widths."""
    narrow = dict(dim=16, heads=2, head_dim=16, mlp_hidden=24, text_channels=40)
    monkeypatch.setitem(TRANSFORMERS, size, TRANSFORMERS[size] | narrow)
    monkeypatch.setitem(VAES, "published", dict(widths=(8, 8, 8, 8), norm_groups=4))
    monkeypatch.setenv(published.FOLDER, str(tmp_path))
    source, target = str(tmp_path / "low.mp4"), str(tmp_path / "high.mp4")
    monkeypatch.setitem(published.TEXTS, "pos_emb.pt", publish(tmp_path, size, 40, side=32))
    assert main(["restore", source, target, "--model", size, "--height", "50"]) == 0
    info = VideoReader(target).info
    assert (info.frames, info.height, info.width) == (5, 50, 50)
    weights = tmp_path / published.FILES[size].name
    by_path = str(tmp_path / "by_path.mp4")
    assert main(["restore", source, by_path, "--model", str(weights), "--height", "50"]) == 0
    assert Path(by_path).read_bytes() == Path(target).read_bytes()
    (tmp_path / "ema_vae.pth").unlink()
    capsys.readouterr()
    assert main(["restore", source, str(tmp_path / "none.mp4"), "--model", size]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and "seedvr2-lab weights vae" in lines[0]
    assert not (tmp_path / "none.mp4").exists()


RESTORE = """
import re, sys, time
from pathlib import Path
from seedvr2_lab.cli import main
from seedvr2_lab.model import published

folder, published.TEXTS["pos_emb.pt"] = Path(sys.argv[1]), sys.argv[2]
start = time.monotonic()
assert main(["restore", str(folder / "low.mp4"), str(folder / "high.mp4"), "--model", "3b", "--scale", "1"]) == 0
peak = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]
print(f"peak {int(peak) / 1e6:.1f} GB, {time.monotonic() - start:.0f} s")
"""


@pytest.mark.slow
def test_the_full_3b_restores_a_small_clip_within_24_gb(tmp_path, monkeypatch):
    """6.8 GB of random weights on disk; bfloat16 on the CPU."""
    memory = Path("/proc/meminfo")
    available = int(memory.read_text().split("MemAvailable:")[1].split()[0]) if memory.exists() else 0
    if available < 16e6 or shutil.disk_usage(tmp_path).free < 12e9:
        pytest.skip("needs 16 GB of free memory, 12 GB of free disk and Linux's /proc")
    try:
        checksum = publish(tmp_path, "3b", 5120, side=128)
        monkeypatch.setenv(published.FOLDER, str(tmp_path))
        command = [sys.executable, "-c", RESTORE, str(tmp_path), checksum]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        print(report)
        info = VideoReader(tmp_path / "high.mp4").info
        assert (info.frames, info.height, info.width) == (5, 128, 128)
        assert float(report.split("peak ")[1].split()[0]) < 24
    finally:
        for path in tmp_path.glob("*.pth"):  # pytest would keep them for three runs
            path.unlink()
