"""The transformer: equal to reference outputs, to published parameter lists, and to itself whatever the batching."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from seedvr2_lab.console import InputError
from seedvr2_lab.model import layers
from seedvr2_lab.model.attention import window_plan
from seedvr2_lab.model.dit import DiT, DiTConfig
from seedvr2_lab.model.layers import LayerModulation
from seedvr2_lab.model.windows import WindowScheme

CLOSE = {"rtol": 0, "atol": 2e-5}
CASES = {
    "dit_v1_a": ["img_40x44", "portrait2_80x22", "vid33_4x6", "vid3_tiny_detail", "vid5_40x44"],
    "dit_v2_a": ["img_40x44", "portrait2_80x22", "vid33_4x6", "vid3_tiny_detail", "vid5_40x44", "wide2_10x180"],
    "dit_v2_b": ["img_44x40", "vid5_12x20"],
}
LAB = DiTConfig(
    dim=32, layers=3, heads=2, head_dim=16, mlp_hidden=48, windows=WindowScheme(counts=(2, 2, 2), reference=(4, 4))
)


def load(golden, name, **settings):
    weights = golden(f"{name}_weights.safetensors")
    dit = DiT(replace(DiTConfig.from_published(weights.meta["config"]), **settings))
    dit.load_state_dict(weights.tensors, strict=True)
    return dit.eval().requires_grad_(False)


def channels_first(x):  # (T, H, W, C) -> (C, T, H, W)
    return x.movedim(-1, 0)


def make(config=LAB, seed=0):
    torch.manual_seed(seed)
    return DiT(config)


@pytest.mark.parametrize("path", ["fast", "reference"])
@pytest.mark.parametrize("name, case", [(name, case) for name, cases in CASES.items() for case in cases])
def test_reference_outputs(golden, name, case, path):
    reference = golden(f"{name}_{case}.safetensors").tensors
    dit = load(golden, name, attention=path)
    clips, wanted = channels_first(reference["in.vid"])[None], range(dit.config.layers)
    out, activations = dit(clips, reference["in.txt"], reference["in.timestep"], return_blocks=wanted)
    assert_close(out[0], channels_first(reference["out.vid"]), **CLOSE)
    for layer, activation in zip(wanted, activations, strict=True):
        if (expected := reference.get(f"act.block{layer}.vid")) is not None:
            assert_close(activation, expected, **CLOSE)


@pytest.mark.parametrize("name", ["dit_v1_a", "dit_v2_a"])
def test_reference_activations_of_every_part(golden, name):
    reference = golden(f"{name}_vid3_tiny_detail.safetensors").tensors
    dit, seen = load(golden, name), {}
    for layer, block in enumerate(dit.blocks):
        block.register_forward_hook(lambda _, __, out, layer=layer: seen.update({f"block{layer}": out}))
        block.attn.register_forward_hook(lambda _, __, out, layer=layer: seen.update({f"block{layer}.attn": out}))
    dit(channels_first(reference["in.vid"])[None], reference["in.txt"], reference["in.timestep"])
    last = f"block{len(dit.blocks) - 1}"
    for part, (video, text) in seen.items():
        assert_close(video[0], reference[f"act.{part}.vid"], **CLOSE)
        if not (name == "dit_v2_a" and part == last):  # nothing reads the text of the last v2 layer
            assert_close(text[0], reference[f"act.{part}.txt"], **CLOSE)
    assert len(seen) == 2 * len(dit.blocks)


@pytest.mark.parametrize("name", ["dit_v1_a", "dit_v2_a"])
def test_clips_of_two_sizes_and_texts_give_what_single_ones_give(golden, name):
    reference = golden(f"{name}_batch2.safetensors").tensors
    clips = [channels_first(reference[f"in.vid{i}"]) for i in (0, 1)]
    texts = [reference[f"in.txt{i}"] for i in (0, 1)]
    out = load(golden, name)(clips, texts, reference["in.timestep"])
    assert isinstance(out, list)
    for i in (0, 1):
        assert_close(out[i], channels_first(reference[f"out.single.vid{i}"]), **CLOSE)


@pytest.mark.parametrize("variant", ["v1", "v2"])
@pytest.mark.parametrize(
    "sizes", [[(2, 6, 8)] * 3, [(2, 6, 8), (1, 4, 4), (2, 6, 8)], [(1, 4, 12), (1, 6, 8), (1, 2, 24)]]
)
@pytest.mark.parametrize("lengths", [[3, 3, 3], [3, 1, 3]])
def test_any_batch_equals_single_clips(variant, sizes, lengths):
    dit = make(replace(LAB, variant=variant))
    clips = [torch.randn(33, *size) for size in sizes]
    texts = [torch.randn(length, 32) for length in lengths]
    times = torch.tensor([10.0, 500.0, 1000.0])
    out, activations = dit(clips, texts, times, return_blocks=(2, 0))
    singles = [
        dit(clip[None], text, time, return_blocks=(2, 0)) for clip, text, time in zip(clips, texts, times, strict=True)
    ]
    for one, (single, _) in zip(out, singles, strict=True):
        assert_close(one, single[0], **CLOSE)
    for packed, *parts in zip(activations, *(single for _, single in singles), strict=True):
        assert_close(packed, torch.cat(parts), **CLOSE)


def test_kinds_of_input():
    dit, text = make(), torch.randn(4, 32)
    clips = torch.randn(2, 33, 1, 8, 6)
    out = dit(clips, text, 700)
    assert out.shape == (2, 16, 1, 8, 6)
    as_list = dit(list(clips), [text, text], torch.tensor([700.0, 700.0]))
    assert isinstance(as_list, list)
    assert_close(torch.stack(as_list), out, **CLOSE)


@pytest.mark.parametrize(
    "clips, text, time, message",
    [
        (torch.zeros(1, 33, 1, 7, 8), torch.zeros(2, 32), 0, "latent is 7x8: crop or pad"),
        ([torch.zeros(33, 1, 8, 5)], torch.zeros(2, 32), 0, "latent is 8x5: crop or pad"),
        (torch.zeros(1, 32, 1, 8, 8), torch.zeros(2, 32), 0, "give \\(33, frames, height, width\\)"),
        (torch.zeros(33, 1, 8, 8), torch.zeros(2, 32), 0, "give \\(33, frames, height, width\\)"),
        (torch.zeros(2, 33, 1, 8, 8), torch.zeros(2, 31), 0, "text is .* give \\(tokens, 32\\)"),
        (torch.zeros(2, 33, 1, 8, 8), [torch.zeros(2, 32)], 0, "1 texts for 2 clips"),
        (torch.zeros(2, 33, 1, 8, 8), torch.zeros(2, 32), torch.zeros(3), "3 timesteps for 2 clips"),
    ],
)
def test_unusable_input_is_refused_in_one_line(clips, text, time, message):
    with pytest.raises(InputError, match=message) as error:
        make()(clips, text, time)
    assert "\n" not in str(error.value)


def test_unknown_choices_are_refused(golden):
    for fields in ({"variant": "v3"}, {"attention": "flash"}, {"head_dim": 15}):
        with pytest.raises(InputError):
            DiTConfig(**fields)
    published = golden("dit_v2_a_weights.safetensors").meta["config"]
    for fields in ({"emb_dim": 7}, {"ada": "double"}, {"patch_size": [2, 2, 2]}, {"qk_bias": True}):
        with pytest.raises(InputError, match=next(iter(fields))):
            DiTConfig.from_published(published | fields)


COMMON = {
    "vid_in_channels": 33, "vid_out_channels": 16, "txt_in_dim": 5120, "head_dim": 128, "expand_ratio": 4,
    "patch_size": [1, 2, 2], "norm_eps": 1e-5, "ada": "single", "qk_bias": False,
}  # fmt: skip
PUBLISHED = {
    "3b": COMMON | {"vid_dim": 2560, "heads": 20, "num_layers": 32, "mm_layers": 10, "mlp_type": "swiglu",
                    "rope_dim": 128, "window": [[4, 3, 3]] * 32},
    "7b": COMMON | {"vid_dim": 3072, "heads": 24, "num_layers": 36, "mlp_type": "normal", "window": [[4, 3, 3]] * 36},
}  # fmt: skip


@pytest.mark.parametrize("size, parameters", [("3b", 3_391_475_776), ("7b", 8_239_607_872)])
def test_published_sizes_have_the_published_parameters(size, parameters):
    with torch.device("meta"):
        dit = DiT(DiTConfig.from_published(PUBLISHED[size]))
    assert sum(parameter.numel() for parameter in dit.parameters()) == parameters  # names: test_weights.py


def test_separate_layers_as_a_list(golden):
    published = golden("dit_v2_a_weights.safetensors").meta["config"]
    by_list = DiTConfig.from_published(published | {"mm_layers": [True, True, False, False]})
    assert DiT(by_list).state_dict().keys() == load(golden, "dit_v2_a").state_dict().keys()


def test_lab_model_shares_all_weights_and_takes_text_as_is():
    dit = make(DiTConfig(mlp_hidden=256))
    assert 0.7e6 < sum(parameter.numel() for parameter in dit.parameters()) < 0.9e6
    names = dit.state_dict().keys()
    assert not any(name.startswith("txt_in") or ".vid." in name or ".txt." in name for name in names)
    dit(torch.randn(1, 33, 2, 8, 8), torch.randn(4, 96), 500.0).square().mean().backward()
    assert all(parameter.grad is not None for parameter in dit.parameters())


def test_initial_modulation_is_near_shift_0_scale_1_gate_0():
    torch.manual_seed(0)
    for name, parameter in LayerModulation(4096).named_parameters():
        assert abs(parameter.mean().item() - name.endswith("scale")) < 2e-3
        assert_close(parameter.std().item(), 4096**-0.5, rtol=0.1, atol=0)


@pytest.mark.parametrize("variant", ["v1", "v2"])
def test_settings_reach_the_network(variant):
    """Text, time, window scheme, shift of odd layers: each changes the output."""
    config = replace(LAB, variant=variant)
    dit, clips, text = make(config), torch.randn(1, 33, 1, 16, 16), torch.randn(3, 32)
    out = dit(clips, text, 500.0)
    assert (dit(clips, -text, 500.0) - out).abs().max() > 1e-3
    assert (dit(clips, text, 900.0) - out).abs().max() > 1e-3
    for windows in (
        WindowScheme("global"),
        replace(LAB.windows, counts=(2, 1, 2)),
        replace(LAB.windows, reference=(8, 8)),
    ):
        other = make(replace(config, windows=windows))
        assert (other(clips, text, 500.0) - out).abs().max() > 1e-4


@pytest.mark.parametrize("variant", ["v1", "v2"])
@pytest.mark.parametrize("path", ["fast", "reference"])
def test_mixed_precision_trains(variant, path):
    dit = make(replace(LAB, variant=variant, attention=path, separate_layers=1))
    clips, text, times = torch.randn(2, 33, 2, 8, 6), torch.randn(3, 32), torch.tensor([300.0, 900.0])
    exact = dit(clips, text, times)
    weight = dit.blocks[0].attn.proj_qkv.video.weight
    (expected,) = torch.autograd.grad(exact.square().mean(), weight)
    with torch.autocast("cpu", torch.bfloat16):
        out = dit(clips, text, times)
    (gradient,) = torch.autograd.grad(out.float().square().mean(), weight)
    assert_close(out.float(), exact, rtol=0.03, atol=0.03)
    assert (gradient - expected).norm() < 0.05 * expected.norm()


def test_whole_network_in_bfloat16():
    dit, clips, text = make(), torch.randn(1, 33, 2, 8, 6), torch.randn(3, 32)
    exact = dit(clips, text, 500.0)
    half = dit.bfloat16()(clips.bfloat16(), text.bfloat16(), 500.0)
    assert half.dtype == torch.bfloat16
    assert_close(half.float(), exact, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("variant", ["v1", "v2"])
@pytest.mark.parametrize("sizes", [[(2, 6, 8)] * 2, [(2, 6, 8), (1, 4, 4)]])
def test_without_gradients_the_same_in_pieces(monkeypatch, variant, sizes):
    dit, texts = make(replace(LAB, variant=variant, separate_layers=1)), [torch.randn(3, 32), torch.randn(2, 32)]
    clips, times = [torch.randn(33, *size) for size in sizes], torch.tensor([300.0, 900.0])
    whole = dit(clips, texts, times)
    monkeypatch.setattr(layers, "CPU_PIECE", 500)  # a few tokens
    with torch.no_grad():
        assert_close(dit(clips, texts, times), [out.detach() for out in whole], rtol=1e-5, atol=1e-6)


def step(dit):
    """Output, gradients and the bytes kept for them."""
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    weights = {parameter.untyped_storage().data_ptr() for parameter in dit.parameters()}
    clips, text = torch.randn(1, 33, 2, 24, 24, generator=torch.Generator().manual_seed(0)), torch.ones(3, 32)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = dit(clips, text, 500.0)
    gradients = torch.autograd.grad(out.square().mean(), list(dit.parameters()))
    return [out, *gradients], sum(size for place, size in kept.items() if place not in weights)


def test_checkpointing_gives_the_same_gradients_from_less():
    dit = make(replace(LAB, layers=4))
    plain, bytes_plain = step(dit)
    dit.checkpointing = True
    lean, bytes_lean = step(dit)
    assert_close(lean, plain, rtol=0, atol=0)
    assert bytes_lean < bytes_plain / 4


@pytest.mark.parametrize("layer, grad", [(0, True), (1, True), (2, False)])
def test_blocks_compile_without_a_graph_break(layer, grad):
    config = replace(LAB, separate_layers=1)
    block, grids, lengths = make(config).blocks[layer], ((2, 4, 4), (1, 3, 5)), (3, 2)
    plan = window_plan(grids, lengths, config.windows, layer % 2 == 1, config.rope, torch.device("cpu"))
    inputs = torch.randn(1, 47, 32), torch.randn(1, 5, 32), torch.randn(2, 3, 2, 32), plan
    with torch.set_grad_enabled(grad):
        compiled = torch.compile(block, backend="eager", fullgraph=True)  # raises at a break
        assert_close(compiled(*inputs), block(*inputs), rtol=0, atol=0)


def test_gradient_penalty_through_the_reference_path():
    """The derivative of |d out / d clips|^2 along a direction of the weights equals its finite difference."""
    dit = make(replace(LAB, attention="reference", layers=2)).double()
    clips, text = torch.randn(1, 33, 2, 4, 6).double().requires_grad_(), torch.randn(3, 32).double()
    weight = dit.blocks[0].attn.proj_qkv.video.weight
    direction = torch.randn_like(weight)

    def penalty():
        (gradient,) = torch.autograd.grad(dit(clips, text, 500.0).sum(), clips, create_graph=True)
        return gradient.square().sum()

    (exact,) = torch.autograd.grad(penalty(), weight)
    step, values = 1e-5, []
    for sign in (1, -2):
        with torch.no_grad():
            weight += sign * step * direction
        values.append(penalty().item())
    assert_close((exact * direction).sum().item(), (values[0] - values[1]) / (2 * step), rtol=1e-5, atol=1e-8)
