"""Rotary embedding: equal to reference angles and rotations, and to its own definition."""

import math

import pytest
import torch
from torch.testing import assert_close

from seedvr2_lab.model.rope import WindowRope, frequencies, rotate, text_positions, video_positions


@pytest.mark.parametrize("name, kind, dim", [("v2", "lang", 128), ("v1", "pixel", 64)])
def test_reference_angles_and_rotation_of_video(golden, name, kind, dim):
    reference = golden("rope.safetensors").tensors
    rope = WindowRope(kind, dim)
    assert_close(rope.rope.freqs, reference[f"{name}.base_freqs"], rtol=0, atol=0)
    shapes, lengths = reference[f"{name}.window_shapes"].tolist(), reference["v2.text_len"].flatten().tolist()
    pairs = zip(shapes, lengths, strict=True)
    angles = rope.angles(torch.cat([video_positions(tuple(shape), length, kind) for shape, length in pairs]))
    assert_close(angles.repeat_interleave(2, dim=1), reference[f"{name}.vid_angles"], rtol=0, atol=1e-5)
    q = reference[f"{name}.in.vid_q"]
    assert_close(rotate(q, angles), reference[f"{name}.out.vid_q"], rtol=0, atol=1e-5)


def test_reference_rotation_of_text(golden):
    reference = golden("rope.safetensors").tensors
    lengths = reference["v2.text_len"].flatten().tolist()
    positions = torch.cat([text_positions(length, "lang") for length in lengths])
    q = reference["v2.in.txt_q"]
    turned, _ = WindowRope("lang", 128)(q, q, positions)
    assert_close(turned, reference["v2.out.txt_q"], rtol=0, atol=1e-5)


def test_definition_for_one_token():
    """Token (1, 2, 0) of a window after 5 text tokens, head width 16, rope_dim 13: 2 frequencies on each axis."""
    base = [1.0, 10_000 ** (-2 / 4)]
    angles = [position * frequency for position in (5 + 1, 2, 0) for frequency in base]
    x = torch.randn(1, 1, 16)
    expected = x.clone()
    for i, angle in enumerate(angles):
        a, b = x[0, 0, 2 * i], x[0, 0, 2 * i + 1]
        expected[0, 0, 2 * i] = a * math.cos(angle) - b * math.sin(angle)
        expected[0, 0, 2 * i + 1] = a * math.sin(angle) + b * math.cos(angle)
    positions = video_positions((2, 3, 4), 5, "lang")[1 * 12 + 2 * 4][None]
    assert_close(WindowRope("lang", 13)(x, x, positions)[0], expected)


def test_scores_depend_on_relative_positions_only():
    q, k = torch.randn(2, 1, 1, 32).unbind()
    rope = WindowRope("lang", 32)

    def score(q_at, k_at):
        return (rope(q, q, torch.tensor([q_at]))[0] * rope(k, k, torch.tensor([k_at]))[0]).sum()

    assert_close(score([3.0, 5.0, 1.0], [1.0, 2.0, 7.0]), score([13.0, 25.0, 4.0], [11.0, 22.0, 10.0]))
    assert abs(score([3.0, 5.0, 1.0], [1.0, 2.0, 7.0]) - score([3.0, 5.0, 1.0], [1.0, 2.0, 8.0])) > 1e-4


def test_pixel_windows_span_minus_one_to_one():
    positions = video_positions((3, 1, 4), 9, "pixel").view(3, 1, 4, 3)
    assert positions[:, 0, 0, 0].tolist() == [-1, 0, 1]
    assert positions[0, :, 0, 1].tolist() == [-1]
    assert_close(positions[0, 0, :, 2], torch.tensor([-1, -1 / 3, 1 / 3, 1]))
    assert text_positions(9, "pixel") is None


@pytest.mark.parametrize("kind, dim, count", [("lang", 128, 21), ("lang", 32, 5), ("lang", 20, 3), ("pixel", 64, 10)])
def test_number_of_frequencies(kind, dim, count):
    assert len(frequencies(kind, dim)) == count


def test_remaining_features_and_dtype_stay_and_angles_broadcast():
    x = torch.randn(3, 4, 2, 20)  # three clips of one size
    angles = torch.randn(4, 6)
    out = rotate(x, angles)
    assert_close(out[..., 12:], x[..., 12:], rtol=0, atol=0)
    assert_close(out, rotate(x, angles.expand(3, 4, 6)), rtol=0, atol=0)
    assert_close(out[1], rotate(x[1], angles), rtol=0, atol=0)
    assert_close(out.norm(dim=-1), x.norm(dim=-1))
    assert rotate(x.bfloat16(), angles).dtype == torch.bfloat16


def test_the_buffer_is_what_multiplies_positions():
    rope, positions = WindowRope("lang", 24), video_positions((1, 2, 2), 3, "lang")
    before = rope.angles(positions)
    rope.load_state_dict({"rope.freqs": 2 * rope.rope.freqs})
    assert_close(rope.angles(positions), 2 * before)


def test_frequencies_stay_precise_when_the_model_is_cast():
    rope, positions = WindowRope("lang", 24), video_positions((1, 8, 8), 58, "lang")
    expected = rope.angles(positions)
    assert_close(rope.bfloat16().angles(positions), expected, rtol=0, atol=0)
    assert WindowRope("lang", 24).to("meta").rope.freqs.is_meta
    with torch.device("meta"):
        empty = WindowRope("lang", 24)
    assert not empty.to_empty(device="cpu").rope.freqs.is_meta
