"""Joint attention of video and text inside windows (the paper's section 3.2, on the MM-DiT attention of SeedVR).

Every window is one full softmax attention over [the window's video tokens, all text tokens of its clip]. A text token
therefore has one result per window; they are averaged.

- `window_plan` says once per set of sizes which token sits in which window; all layers of one parity share it.
- `reference_attention` reads like the definition and can be differentiated twice.
- `fast_attention` brings the tokens into window order and gives all windows of equal length to one call of
  PyTorch's scaled_dot_product_attention, whatever the shapes of the windows.

Legend: `P` packed video tokens of all clips, `L` packed text tokens of all clips, `R` rows in window order (text
repeated for every window), `S` tokens of one window with its text, `N` heads, `E` head width, `D` width.
`G` is the number of clips if they are of one size, else 1 with all tokens in a row.
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from math import prod, sqrt
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from seedvr2_lab.model.rope import RopeKind, WindowRope, text_positions, video_positions
from seedvr2_lab.model.windows import Size, Window, WindowScheme, partition

QKV = tuple[Tensor, Tensor, Tensor]  # q, k, v, each (tokens, N, E)
AttentionPath = Literal["fast", "reference"]


@dataclass(frozen=True)
class WindowPlan:
    """Where the tokens of a batch go in the layers of one parity."""

    grids: tuple[Size, ...]  # tokens (T, H, W) of each clip
    text_lengths: tuple[int, ...]  # of each clip
    windows: tuple[list[Window], ...]  # of each clip
    video_positions: Tensor  # (P, 3) for the rotary embedding; of one clip only if all clips are alike
    text_positions: Tensor | None  # (L, 3), likewise
    batches: tuple[tuple[int, int], ...]  # (windows, S) of each group of windows of equal length
    gather_R: Tensor  # row of cat(video, text) for every row in window order
    video_rows_P: Tensor  # row in window order of every video token
    text_rows: Tensor  # rows in window order of every text token, its windows side by side
    text_runs: tuple[tuple[int, int], ...]  # (text tokens, windows) of neighbouring clips with equally many windows

    @property
    def video_lengths(self) -> tuple[int, ...]:
        """Video tokens of each clip."""
        return tuple(prod(grid) for grid in self.grids)


@lru_cache(maxsize=16)
@torch.inference_mode(False)  # a plan first made while sampling must serve training as well
def window_plan(
    grids: tuple[Size, ...],
    text_lengths: tuple[int, ...],
    scheme: WindowScheme,
    shifted: bool,
    rope: RopeKind,
    device: torch.device,
) -> WindowPlan:
    """The plan for clips of these token grids and text lengths. Built on first use, then remembered."""
    windows = tuple(partition(grid, scheme, shifted) for grid in grids)
    video_start, text_start = 0, sum(prod(grid) for grid in grids)
    groups = defaultdict(list)
    for grid, length, clip_windows in zip(grids, text_lengths, windows, strict=True):
        tokens_THW = torch.arange(video_start, video_start + prod(grid)).view(grid)
        text = torch.arange(text_start, text_start + length)
        for window in clip_windows:
            video = tokens_THW[window].flatten()
            groups[len(video), length].append(torch.cat([video, text]))
        video_start, text_start = video_start + prod(grid), text_start + length

    gather_R = torch.cat([rows for group in groups.values() for rows in group])
    order = gather_R.argsort(stable=True)  # a video token has one row; a text token has neighbours, one per window
    packed = video_start
    counts = [(len(clip_windows), length) for clip_windows, length in zip(windows, text_lengths, strict=True)]
    runs = tuple((sum(length for _, length in run), count) for count, run in groupby(counts, key=lambda pair: pair[0]))

    alike = len(set(zip(grids, text_lengths, strict=True))) == 1
    clips = list(zip(grids, text_lengths, windows, strict=True))[: 1 if alike else None]
    text_at = [text_positions(length, rope) for _, length, _ in clips]
    return WindowPlan(
        grids=grids,
        text_lengths=text_lengths,
        windows=windows,
        video_positions=torch.cat([_clip_positions(*clip, rope) for clip in clips]).to(device),
        text_positions=None if text_at[0] is None else torch.cat(text_at).to(device),
        batches=tuple((len(group), sum(key)) for key, group in groups.items()),
        gather_R=gather_R.to(device),
        video_rows_P=order[:packed].to(device),
        text_rows=order[packed:].to(device),
        text_runs=runs,
    )


def _clip_positions(grid: Size, text_length: int, windows: list[Window], rope: RopeKind) -> Tensor:
    """(tokens, 3): every token's position in its own window, in the clip's row-major order."""
    positions_THW3 = torch.empty(*grid, 3)
    for window in windows:
        shape = tuple(cell.stop - cell.start for cell in window)
        positions_THW3[window] = video_positions(shape, text_length, rope).view(*shape, 3)
    return positions_THW3.flatten(0, 2)


def reference_attention(video: QKV, text: QKV, plan: WindowPlan) -> tuple[Tensor, Tensor]:
    """Window by window with an explicit softmax, at least in float32. Returns video (P, N, E) and text (L, N, E)."""
    dtype = video[0].dtype
    precise = torch.promote_types(dtype, torch.float32)
    video_clips = zip(*(part.to(precise).split(plan.video_lengths) for part in video), strict=True)
    text_clips = zip(*(part.to(precise).split(plan.text_lengths) for part in text), strict=True)
    video_out, text_out = [], []
    for video_clip, text_clip, grid, windows in zip(video_clips, text_clips, plan.grids, plan.windows, strict=True):
        video_THWNE = [part.unflatten(0, grid) for part in video_clip]
        out_THWNE = torch.empty_like(video_THWNE[0])
        text_results = []
        for window in windows:
            cells = [part[window] for part in video_THWNE]
            q_SNE, k_SNE, v_SNE = (
                torch.cat([cell.flatten(0, 2), words]) for cell, words in zip(cells, text_clip, strict=True)
            )
            with torch.autocast(q_SNE.device.type, enabled=False):
                scores_NSS = torch.einsum("qne,kne->nqk", q_SNE, k_SNE) / sqrt(q_SNE.shape[-1])
                result_SNE = torch.einsum("nqk,kne->qne", scores_NSS.softmax(-1), v_SNE)
            video_tokens = len(result_SNE) - len(text_clip[0])
            out_THWNE[window] = result_SNE[:video_tokens].view_as(cells[0])
            text_results.append(result_SNE[video_tokens:])
        video_out.append(out_THWNE.flatten(0, 2))
        text_out.append(torch.stack(text_results).mean(0))
    return torch.cat(video_out).to(dtype), torch.cat(text_out).to(dtype)


def fast_attention(video: QKV, text: QKV, plan: WindowPlan) -> tuple[Tensor, Tensor]:
    """The same with one kernel call for all windows of equal length. Returns video (P, N, E) and text (L, N, E)."""
    dtype, on_cpu = video[0].dtype, video[0].device.type == "cpu"
    # On the CPU the backward pass of this kernel is several times slower in bfloat16 than in float32.
    kernel_dtype = torch.promote_types(dtype, torch.float32) if on_cpu else dtype
    joined = (torch.cat(pair).to(kernel_dtype) for pair in zip(video, text, strict=True))
    rows = [windows * length for windows, length in plan.batches]
    parts = (part.index_select(0, plan.gather_R).split(rows) for part in joined)
    results = []
    with torch.autocast("cpu", enabled=False):  # else it would turn q, k and v back into bfloat16
        for batch, *qkv in zip(plan.batches, *parts, strict=True):
            q_WNSE, k_WNSE, v_WNSE = (part.unflatten(0, batch).transpose(1, 2) for part in qkv)
            result_WNSE = F.scaled_dot_product_attention(q_WNSE, k_WNSE, v_WNSE)
            results.append(result_WNSE.transpose(1, 2).flatten(0, 1))
    result_RNE = torch.cat(results)
    text_RNE = result_RNE.index_select(0, plan.text_rows)
    runs = text_RNE.split([tokens * windows for tokens, windows in plan.text_runs])
    means = [run.unflatten(0, shape).mean(1) for run, shape in zip(runs, plan.text_runs, strict=True)]
    return result_RNE.index_select(0, plan.video_rows_P).to(dtype), torch.cat(means).to(dtype)


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


class WindowAttention(nn.Module):
    """Projections, norms of q and k, rotary embedding and attention in windows, for both branches.

    Args:
        dim: width D of both streams.
        heads, head_dim: N and E; N * E may differ from D.
        shared: one set of weights for video and text.
        rope, rope_dim: variant of the rotary embedding and the features that it may turn.
        path: "fast" or "reference".
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        head_dim: int,
        shared: bool,
        rope: RopeKind,
        rope_dim: int,
        path: AttentionPath,
        eps: float,
    ):
        super().__init__()
        inner = heads * head_dim
        self.proj_qkv = Branches(lambda: nn.Linear(dim, 3 * inner, bias=False), shared)
        self.norm_q = Branches(lambda: RMSNorm(head_dim, eps), shared)
        self.norm_k = Branches(lambda: RMSNorm(head_dim, eps), shared)
        self.rope = WindowRope(rope, rope_dim)
        self.proj_out = Branches(lambda: nn.Linear(inner, dim), shared)
        self.head_dim = head_dim
        self.attend = {"fast": fast_attention, "reference": reference_attention}[path]

    def forward(self, video_GSD: Tensor, text_GSD: Tensor, plan: WindowPlan) -> tuple[Tensor, Tensor]:
        """Both streams after attention, in the shapes given (`S` is then the tokens of a clip)."""
        video = self._qkv(video_GSD, self.proj_qkv.video, self.norm_q.video, self.norm_k.video, plan.video_positions)
        text = self._qkv(text_GSD, self.proj_qkv.text, self.norm_q.text, self.norm_k.text, plan.text_positions)
        video_PNE, text_LNE = self.attend(video, text, plan)
        return (
            self.proj_out.video(video_PNE.flatten(1).view(*video_GSD.shape[:2], -1)),
            self.proj_out.text(text_LNE.flatten(1).view(*text_GSD.shape[:2], -1)),
        )

    def _qkv(self, x_GSD, projection, norm_q, norm_k, positions) -> QKV:
        q_PNE, k_PNE, v_PNE = projection(x_GSD).flatten(0, 1).unflatten(-1, (3, -1, self.head_dim)).unbind(1)
        return *self.rope(norm_q(q_PNE), norm_k(k_PNE), positions), v_PNE
