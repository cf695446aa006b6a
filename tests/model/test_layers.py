"""Working in pieces: the same result, each token once, and only where nothing is differentiated."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from seedvr2_lab.model import layers
from seedvr2_lab.model.layers import in_pieces


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(1, 20), st.integers(1, 70), st.booleans())
def test_pieces_give_what_the_whole_gives(clips, tokens, piece, one_scale):
    x_GSD, scale_GSD = torch.randn(clips, tokens, 4), torch.randn(clips, 1 if one_scale else tokens, 4)
    seen = []

    def function(x, scale):
        seen.append(x.shape[1])
        return x * scale, torch.stack([x, x + 1], -1).bfloat16()

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(layers, "CPU_PIECE", piece)
        product, pairs = in_pieces(function, x_GSD, scale_GSD, width=5)
    assert_close(product, x_GSD * scale_GSD, rtol=0, atol=0)
    assert_close(pairs, torch.stack([x_GSD, x_GSD + 1], -1).bfloat16(), rtol=0, atol=0)
    assert sum(seen) == tokens
    assert max(seen) == 1 or clips * max(seen) * 5 <= piece


def test_what_is_differentiated_stays_whole(monkeypatch):
    monkeypatch.setattr(layers, "CPU_PIECE", 1)
    x_GSD, calls = torch.randn(1, 6, 4, requires_grad=True), []

    def function(x):
        calls.append(x)
        return (x.square(),)

    (out,) = in_pieces(function, x_GSD, width=4)
    out.sum().backward()
    assert len(calls) == 1
    assert_close(x_GSD.grad, 2 * x_GSD.detach())
