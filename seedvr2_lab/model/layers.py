"""Parts of a transformer layer that treat every token alike, and how they save memory when nothing is learned.

Legend: `B` clips, `D` width, `S` tokens, `G` the number of clips if they are of one size, else 1 with all tokens in a
row. All that acts per clip is shaped to broadcast against (G, S, D).
"""

from collections.abc import Callable
from math import ceil, sqrt
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Numbers in the widest intermediate result of a piece. On a CPU matrix products want many rows, but in float32 a piece
# is to stay below 32 MiB: larger ones the C library takes anew from the system every time, and touching memory that is
# new to the process costs more than the arithmetic on it.
CPU_PIECE, DEVICE_PIECE = 8 * 10**6, 2**27


def rows_in_piece(device: torch.device, width: int) -> int:
    """Rows of a piece whose widest intermediate result has `width` numbers a row, at least 1."""
    # Autocast may convert the weights again for every piece, so these must not be many.
    small = device.type == "cpu" and not torch.is_autocast_enabled("cpu")
    return max(1, (CPU_PIECE if small else DEVICE_PIECE) // width)


def in_pieces(function: Callable[..., tuple[Tensor, ...]], *tensors_GSX: Tensor, width: int) -> tuple[Tensor, ...]:
    """`function(*tensors)`, some tokens at a time where no gradients are recorded: what it needs meanwhile stays small.

    Args:
        function: acts on every token (axis 1) by itself and returns one or more tensors (G, S, ...).
        tensors_GSX: the first one has all tokens; one with a single entry on axis 1 goes to every piece as it is.
        width: numbers per token in the widest intermediate result.
    """
    G, S = tensors_GSX[0].shape[:2]
    rows = rows_in_piece(tensors_GSX[0].device, G * width)
    if rows >= S or torch.is_grad_enabled():
        return function(*tensors_GSX)
    rows = ceil(S / ceil(S / rows))  # pieces of one size
    out: tuple[Tensor, ...] = ()
    for start in range(0, S, rows):
        here = slice(start, start + rows)
        parts = function(*(x[:, here] if x.shape[1] == S else x for x in tensors_GSX))
        out = out or tuple(part.new_empty(G, S, *part.shape[2:]) for part in parts)
        for whole, part in zip(out, parts, strict=True):
            whole[:, here] = part
    return out


class Branches(nn.Module):
    """One module for video and one for text, named `vid` and `txt`, or one named `all` for both."""

    def __init__(self, make: Callable[[], nn.Module], shared: bool, text: bool = True):
        super().__init__()
        self.shared = shared
        if shared:
            self.all = make()
        else:
            self.vid = make()
            if text:
                self.txt = make()

    @property
    def video(self) -> nn.Module:
        return self.all if self.shared else self.vid

    @property
    def text(self) -> nn.Module:
        return self.all if self.shared else self.txt


class RMSNorm(nn.Module):
    """Root mean square norm over the last axis with a weight; the result keeps the dtype of its input."""

    def __init__(self, dim: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps).to(x.dtype)


def per_token(values_BD: Tensor, x_GSD: Tensor, lengths: tuple[int, ...]) -> Tensor:
    """One vector per clip, shaped to broadcast against the tokens of clips of these lengths. One vector serves all."""
    if len(values_BD) in (1, len(x_GSD)):
        return values_BD[:, None]
    return torch.cat([value.expand(n, -1) for value, n in zip(values_BD, lengths, strict=True)])[None]


class Modulation(NamedTuple):
    """Shift, scale and gate of one layer part, each broadcastable to (G, S, D)."""

    shift: Tensor
    scale: Tensor
    gate: Tensor

    def enter(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.shift, x, self.scale)  # no "1 +": the learned scale starts at 1

    def leave(self, x: Tensor, update: Tensor) -> Tensor:
        return torch.addcmul(x, update, self.gate)


class LayerModulation(nn.Module):
    """What a layer adds to the six vectors of the time embedding, which all layers share."""

    def __init__(self, dim: int):
        super().__init__()
        for part in ("attn", "mlp"):
            for kind, mean in (("shift", 0), ("scale", 1), ("gate", 0)):
                setattr(self, f"{part}_{kind}", nn.Parameter(mean + torch.randn(dim) / sqrt(dim)))

    def forward(self, time_23BD: Tensor, x_GSD: Tensor, lengths: tuple[int, ...]) -> tuple[Modulation, Modulation]:
        """The modulation of attention and that of the MLP, for tokens like `x_GSD` of clips of these lengths."""
        own = (self.attn_shift, self.attn_scale, self.attn_gate), (self.mlp_shift, self.mlp_scale, self.mlp_gate)
        return tuple(
            Modulation(*(per_token(vector_BD + own_D, x_GSD, lengths) for vector_BD, own_D in zip(*part, strict=True)))
            for part in zip(time_23BD, own, strict=True)
        )


class OutputModulation(nn.Module):
    """Shift and scale before the output projection of v2."""

    def __init__(self, dim: int):
        super().__init__()
        self.out_shift = nn.Parameter(torch.randn(dim) / sqrt(dim))
        self.out_scale = nn.Parameter(1 + torch.randn(dim) / sqrt(dim))

    def forward(self, x_GSD: Tensor, time_23BD: Tensor, lengths: tuple[int, ...]) -> Tensor:
        shift_BD, scale_BD, _ = time_23BD[0]  # the published models read the attention part here
        shift = per_token(shift_BD + self.out_shift, x_GSD, lengths)
        scale = per_token(scale_BD + self.out_scale, x_GSD, lengths)
        return torch.addcmul(shift, x_GSD, scale)


class SwiGLU(nn.Module):
    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.proj_in_gate = nn.Linear(dim, hidden, bias=False)
        self.proj_in = nn.Linear(dim, hidden, bias=False)
        self.proj_out = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj_out(F.silu(self.proj_in_gate(x)) * self.proj_in(x))


class GELU(nn.Module):
    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.proj_in = nn.Linear(dim, hidden)
        self.proj_out = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj_out(F.gelu(self.proj_in(x), approximate="tanh"))
