"""The layers of causal video networks against PyTorch's own in float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from seedvr2_lab.model.video_layers import CausalConv3d, FrameNorm

KINDS = [  # kernel, stride, pads: of residual blocks, shortcuts and both downsamplers
    (3, 1, (1, 1)),
    (1, 1, (0, 0)),
    ((1, 3, 3), (1, 2, 2), (0, 1)),
    ((3, 3, 3), (2, 2, 2), (0, 1)),
]


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    size=st.tuples(st.integers(1, 6), st.integers(2, 12), st.integers(2, 12)),
    portions=st.lists(st.integers(1, 3), min_size=6, max_size=6),
    limit=st.integers(1, 4000),
)
@torch.no_grad()
def test_frames_in_any_portions_and_areas_give_the_convolution_of_the_whole(kind, size, portions, limit):
    torch.manual_seed(0)
    conv = CausalConv3d(3, 5, *kind).double()
    x_BCTHW = torch.randn(2, 3, *size, dtype=torch.float64)
    past = [x_BCTHW[:, :, :1]] * (conv.kernel_size[0] - 1)
    expected = F.conv3d(F.pad(torch.cat([*past, x_BCTHW], 2), kind[2] * 2), conv.weight, conv.bias, conv.stride)
    torch.testing.assert_close(conv(x_BCTHW), expected)
    conv.limit = limit
    memory, outputs = {}, []
    for portion in portions:
        if x_BCTHW.shape[2]:
            outputs.append(conv(x_BCTHW[:, :, :portion], memory))
            x_BCTHW = x_BCTHW[:, :, portion:]
    torch.testing.assert_close(torch.cat(outputs, 2), expected)


def test_no_call_sees_more_than_the_limit_and_its_border(monkeypatch):
    seen, conv2d = [], F.conv2d
    monkeypatch.setattr(F, "conv2d", lambda x, *args: seen.append(x.shape[2:]) or conv2d(x, *args))
    conv = CausalConv3d(4, 4).requires_grad_(False)
    conv.limit = 4 * 4 * 60 * 10  # bytes of 10 rows
    conv(torch.zeros(1, 4, 1, 50, 60), {})
    assert len(seen) == 5 and max(height for height, _ in seen) <= 10 + 2 + 1  # zeros at the picture's border
    seen.clear()
    conv.limit = 4 * 4 * 20  # bytes of a third of a row
    conv(torch.zeros(1, 4, 1, 5, 60), {})
    assert len(seen) == 15 and max(height * width for height, width in seen) <= (1 + 2) * (20 + 2)


@pytest.mark.parametrize(("kind", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.04)])
@torch.no_grad()
def test_statistics_of_large_frames_keep_their_digits(kind, tolerance):
    torch.manual_seed(0)
    norm = FrameNorm(4, 16).to(kind)
    norm.weight.normal_()
    norm.bias.normal_()
    x_BCTHW = (torch.randn(2, 16, 1, 360, 640) * 2 + 5).to(kind).to(memory_format=torch.channels_last_3d)
    expected = F.group_norm(x_BCTHW.squeeze(2).double(), 4, norm.weight.double(), norm.bias.double(), 1e-6)
    ours = norm(x_BCTHW).squeeze(2)
    assert ours.dtype == kind and ours.is_contiguous(memory_format=torch.channels_last)
    assert (ours.double() - expected).abs().max() < tolerance
