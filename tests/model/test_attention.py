"""Attention in windows: the paths agree, and agree with plain attention where that is defined."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from seedvr2_lab.model import attention
from seedvr2_lab.model.attention import (
    WindowAttention,
    fast_attention,
    reference_attention,
    varlen_attention,
    window_plan,
)
from seedvr2_lab.model.windows import WindowScheme

CPU = torch.device("cpu")
HEADS, WIDTH = 2, 8

GRIDS = st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5))
CLIPS = st.one_of(
    st.lists(st.tuples(GRIDS, st.integers(1, 4)), min_size=1, max_size=3),
    st.tuples(st.tuples(GRIDS, st.integers(1, 4)), st.integers(2, 3)).map(lambda pair: [pair[0]] * pair[1]),
)
SCHEMES = st.one_of(
    st.builds(WindowScheme, reference=st.tuples(st.integers(1, 9), st.integers(1, 9))),
    st.builds(WindowScheme, kind=st.just("fixed"), size=GRIDS),
    st.just(WindowScheme("global")),
)


def make_plan(clips, scheme, shifted, device=CPU):
    grids, lengths = zip(*clips, strict=True)
    return window_plan(grids, lengths, scheme, shifted, "lang", device)


def make_tokens(plan, dtype, width=WIDTH):
    generator, where = torch.Generator().manual_seed(0), {"device": plan.gather_R.device, "dtype": dtype}

    def qkv(tokens):
        return [torch.randn(tokens, HEADS, width, generator=generator).to(**where).requires_grad_() for _ in range(3)]

    return qkv(sum(plan.video_lengths)), qkv(sum(plan.text_lengths))


def values_and_gradients(attend, plan, dtype):
    video, text = make_tokens(plan, dtype)
    outputs = attend(video, text, plan)
    weights = [torch.linspace(-1, 1, out.numel(), device=out.device).view_as(out).to(dtype) for out in outputs]
    return *outputs, *torch.autograd.grad(outputs, [*video, *text], weights)


@settings(max_examples=25, deadline=None)
@given(CLIPS, SCHEMES, st.booleans())
def test_paths_agree_in_float32(clips, scheme, shifted):
    plan = make_plan(clips, scheme, shifted)
    ours = values_and_gradients(fast_attention, plan, torch.float32)
    reference = values_and_gradients(reference_attention, plan, torch.float32)
    for fast, slow in zip(ours, reference, strict=True):
        assert_close(fast, slow, rtol=1e-5, atol=1e-5)


@settings(max_examples=15, deadline=None)
@given(CLIPS, SCHEMES, st.booleans())
def test_paths_agree_in_bfloat16(clips, scheme, shifted):
    plan = make_plan(clips, scheme, shifted)
    ours = values_and_gradients(fast_attention, plan, torch.bfloat16)
    reference = values_and_gradients(reference_attention, plan, torch.bfloat16)
    for fast, slow in zip(ours, reference, strict=True):
        assert fast.dtype == torch.bfloat16
        assert_close(fast, slow, rtol=1e-2, atol=1e-2)


@settings(max_examples=25, deadline=None)
@given(CLIPS, SCHEMES, st.booleans(), st.sampled_from([torch.float32, torch.bfloat16]))
def test_no_gradients_change_nothing(clips, scheme, shifted, dtype):
    plan = make_plan(clips, scheme, shifted)
    video, text = make_tokens(plan, dtype)
    recorded = fast_attention(video, text, plan)
    with torch.no_grad():
        assert_close(fast_attention(video, text, plan), recorded, rtol=0, atol=0)


def one_by_one(q_RNE, k_RNE, v_RNE, q_starts, k_starts, q_longest, k_longest):
    """What torch.nn.attention.varlen.varlen_attn gives, by a loop; refuses what the real kernel would refuse."""
    assert q_starts is k_starts and q_starts.dtype == torch.int32
    starts = q_starts.tolist()
    assert starts[0] == 0 and starts[-1] == len(q_RNE)
    sizes = [end - start for start, end in pairwise(starts)]
    assert min(sizes) > 0 and q_longest == k_longest == max(sizes) and type(q_longest) is int
    assert all(part.is_contiguous() for part in (q_RNE, k_RNE, v_RNE))
    sequences = zip(*(part.transpose(0, 1).split(sizes, 1) for part in (q_RNE, k_RNE, v_RNE)), strict=True)
    return torch.cat([F.scaled_dot_product_attention(*qkv).transpose(0, 1) for qkv in sequences])


@settings(max_examples=25, deadline=None)
@given(CLIPS, SCHEMES, st.booleans())
def test_variable_length_path_agrees_with_its_kernel_emulated(clips, scheme, shifted):
    plan = make_plan(clips, scheme, shifted)
    assert len(plan.starts) - 1 == sum(map(len, plan.windows))

    def attend(video, text, plan):
        return varlen_attention(video, text, plan, one_by_one)

    ours = values_and_gradients(attend, plan, torch.float32)
    reference = values_and_gradients(reference_attention, plan, torch.float32)
    for fast, slow in zip(ours, reference, strict=True):
        assert_close(fast, slow, rtol=1e-5, atol=1e-5)


def test_variable_length_kernel_is_taken_in_half_precision_where_the_device_has_it(monkeypatch):
    monkeypatch.setattr(attention, "varlen_attention", lambda *_: "varlen")
    monkeypatch.setattr(attention, "batched_attention", lambda *_: "batched")
    plan = make_plan([((1, 2, 2), 1)], WindowScheme(), False)
    assert not plan.varlen
    able = replace(plan, varlen=True)
    for where, dtype, width, expected in (
        (able, torch.bfloat16, 128, "varlen"),
        (able, torch.float16, 32, "varlen"),
        (able, torch.float32, 128, "batched"),
        (able, torch.bfloat16, 12, "batched"),
        (able, torch.bfloat16, 264, "batched"),
        (plan, torch.bfloat16, 128, "batched"),
    ):
        assert fast_attention(*make_tokens(where, dtype, width), where) == expected


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the variable-length kernel needs a GPU")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("clips", [[((2, 9, 7), 5)], [((2, 9, 7), 5), ((1, 4, 4), 1)]])
def test_variable_length_kernel_agrees_with_the_reference(clips, dtype):
    plan = make_plan(clips, WindowScheme("fixed", size=(1, 4, 3)), True, torch.device("cuda"))
    if not plan.varlen:
        pytest.skip("this GPU or this build of PyTorch lacks the variable-length kernel")
    ours = values_and_gradients(fast_attention, plan, dtype)
    reference = values_and_gradients(reference_attention, plan, dtype)
    for fast, slow in zip(ours, reference, strict=True):
        assert fast.dtype == dtype
        assert_close(fast, slow, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("attend", [fast_attention, reference_attention])
def test_global_window_is_plain_attention(attend):
    plan = make_plan([((2, 3, 4), 5)], WindowScheme("global"), True)
    video, text = make_tokens(plan, torch.float32)
    q, k, v = (torch.cat(pair).transpose(0, 1) for pair in zip(video, text, strict=True))
    expected = F.scaled_dot_product_attention(q, k, v).transpose(0, 1)
    assert_close(torch.cat(attend(video, text, plan)), expected)


@pytest.mark.parametrize("attend", [fast_attention, reference_attention])
def test_text_is_the_plain_mean_over_windows_of_unequal_size(attend):
    plan = make_plan([((1, 3, 1), 2)], WindowScheme("fixed", size=(1, 2, 1)), False)  # windows of 2 and 1 tokens
    (q, k, v), (text_q, text_k, text_v) = make_tokens(plan, torch.float32)
    results = []
    for cells in (slice(0, 2), slice(2, 3)):
        keys, values = torch.cat([k[cells], text_k]), torch.cat([v[cells], text_v])
        scores = torch.einsum("qne,kne->nqk", text_q, keys) / WIDTH**0.5
        results.append(torch.einsum("nqk,kne->qne", scores.softmax(-1), values))
    _, text_out = attend((q, k, v), (text_q, text_k, text_v), plan)
    assert_close(text_out, (results[0] + results[1]) / 2)


def test_tokens_of_other_windows_and_clips_are_not_seen():
    plan = make_plan([((1, 4, 4), 2), ((1, 4, 4), 2)], WindowScheme("fixed", size=(1, 2, 2)), False)
    video, text = make_tokens(plan, torch.float32)
    out, _ = fast_attention(video, text, plan)
    (gradient,) = torch.autograd.grad(out[0].sum(), video[2])  # token (0, 0, 0) of the first clip
    seen = gradient.abs().sum((1, 2)).nonzero().flatten().tolist()
    assert seen == [0, 1, 4, 5]


def test_reference_path_differentiates_twice():
    plan = make_plan([((1, 1, 3), 1), ((2, 1, 1), 1)], WindowScheme("fixed", size=(1, 1, 2)), True)
    video, text = make_tokens(plan, torch.float64)
    assert len(plan.windows[0]) == 2

    def attend(*qkv):
        return reference_attention(qkv[:3], qkv[3:], plan)

    assert torch.autograd.gradgradcheck(attend, (*video, *text), atol=1e-5, fast_mode=True)


def test_windows_of_equal_length_share_a_batch():
    scheme = WindowScheme("fixed", size=(1, 4, 6))
    plan = make_plan([((1, 4, 6), 3), ((1, 6, 4), 3)], scheme, False)  # 4x6; 4x4 and 2x4
    assert sorted(plan.batches) == [(1, 11), (1, 19), (1, 27)]
    turned = make_plan([((2, 2, 6), 3), ((2, 4, 3), 3)], WindowScheme("fixed", size=(1, 9, 9)), False)
    assert turned.batches == ((4, 15),)  # two windows of 2x6, two of 4x3
    uneven_text = make_plan([((1, 4, 6), 3), ((1, 4, 6), 2)], scheme, False)
    assert sorted(uneven_text.batches) == [(1, 26), (1, 27)]
    balanced = make_plan([((1, 4, 6), 3), ((1, 5, 5), 2)], WindowScheme("global"), False)
    assert balanced.batches == ((2, 27),)


def test_a_plan_is_small():
    """101 frames of 1080p; the published code keeps 8.5 GB of angles, for every position that could occur."""
    plan = make_plan([((26, 68, 120), 58)], WindowScheme(), True)
    tensors = [value for value in vars(plan).values() if isinstance(value, torch.Tensor)]
    assert sum(tensor.untyped_storage().nbytes() for tensor in tensors) < 64 * sum(plan.video_lengths)


def test_plan_made_while_sampling_serves_training():
    clips, scheme = [((1, 5, 3), 2)], WindowScheme("fixed", size=(1, 2, 3))
    window_plan.cache_clear()
    with torch.inference_mode():
        plan = make_plan(clips, scheme, False)
    assert make_plan(clips, scheme, False) is plan
    values_and_gradients(fast_attention, plan, torch.float32)  # raises if the plan holds inference tensors


@pytest.mark.parametrize("kind", ["lang", "pixel"])
@pytest.mark.parametrize("shared", [False, True])
def test_module_paths_agree_under_autocast(kind, shared):
    torch.manual_seed(0)
    arguments = {"dim": 24, "heads": 3, "head_dim": 16, "shared": shared, "rope": kind, "rope_dim": 16, "eps": 1e-5}
    fast, slow = WindowAttention(**arguments, path="fast"), WindowAttention(**arguments, path="reference")
    slow.load_state_dict(fast.state_dict())
    plan = window_plan(((2, 4, 5),) * 2, (3, 3), WindowScheme("fixed", size=(1, 3, 3)), True, kind, CPU)
    video, text = torch.randn(2, 40, 24), torch.randn(2, 3, 24)
    exact = slow(video, text, plan)
    with torch.autocast("cpu", torch.bfloat16):
        ours, reference = fast(video, text, plan), slow(video, text, plan)
    for half, other_half, full in zip(ours, reference, exact, strict=True):
        assert half.dtype == other_half.dtype == torch.bfloat16
        assert_close(half, other_half, rtol=1e-2, atol=1e-2)
        assert_close(half.float(), full, rtol=0, atol=2e-2)
