"""Joint attention of video and text inside windows (the paper's section 3.2, on the MM-DiT attention of SeedVR).

Every window is one full softmax attention over [the window's video tokens, all text tokens of its clip]. A text token
therefore has one result per window; they are averaged.

- `window_plan` says once per set of sizes which token sits in which window; all layers of one parity share it.
- `reference_attention` reads like the definition and can be differentiated twice.
- `fast_attention` brings the tokens into window order and calls kernels of PyTorch: `varlen_attention` gives windows
  of all lengths to one call, on a GPU in half precision; elsewhere `batched_attention` makes one call for all windows
  of equal length, whatever their shapes.

Legend: `P` packed video tokens of all clips, `L` packed text tokens of all clips, `R` rows in window order (text
repeated for every window), `S` tokens of one window with its text, `N` heads, `E` head width, `D` width.
`G` is the number of clips if they are of one size, else 1 with all tokens in a row (`S` is then the tokens of a clip).
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, groupby
from math import prod, sqrt
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn

from seedvr2_lab.model.layers import Branches, RMSNorm, in_pieces, rows_in_piece
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
    video_positions: Tensor  # for the rotary embedding: (G, S, 3), or (1, S, 3) if all clips are alike
    text_positions: Tensor | None  # likewise
    batches: tuple[tuple[int, int], ...]  # (windows, S) of each group of windows of equal length
    gather_R: Tensor  # row of cat(video, text) for every row in window order
    starts: Tensor  # (windows + 1,) int32: the row in window order where each window starts, and the end
    longest: int  # the largest S
    varlen: bool  # whether the device has a kernel for windows of several lengths
    video_rows_P: Tensor  # row in window order of every video token
    text_rows: Tensor  # rows in window order of every text token, its windows side by side
    text_places: Tensor  # the same rows in ascending order
    text_before: tuple[int, ...]  # (windows + 1,) how many of them stand before each window, and in all
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
            groups[len(video) + length].append((torch.cat([video, text]), length))
        video_start, text_start = video_start + prod(grid), text_start + length

    gather_R = torch.cat([rows for group in groups.values() for rows, _ in group])
    order = gather_R.argsort(stable=True)  # a video token has one row; a text token has neighbours, one per window
    packed = video_start
    counts = [(len(clip_windows), length) for clip_windows, length in zip(windows, text_lengths, strict=True)]
    runs = tuple((sum(length for _, length in run), count) for count, run in groupby(counts, key=lambda pair: pair[0]))

    starts = torch.tensor([0, *(length for length, group in groups.items() for _ in group)]).cumsum(0)
    clips = list(zip(grids, text_lengths, windows, strict=True))
    alike = len(set(zip(grids, text_lengths, strict=True))) == 1
    video_at = [_clip_positions(*clip, rope) for clip in clips[: 1 if alike else None]]
    text_at = [text_positions(length, rope) for length in text_lengths[: 1 if len(set(text_lengths)) == 1 else None]]
    return WindowPlan(
        grids=grids,
        text_lengths=text_lengths,
        windows=windows,
        video_positions=_side_by_side(video_at, len(set(grids)) == 1).to(device),
        text_positions=None if text_at[0] is None else _side_by_side(text_at, len(text_at) == 1).to(device),
        batches=tuple((len(group), length) for length, group in groups.items()),
        gather_R=gather_R.to(device),
        starts=starts.to(device, torch.int32),
        longest=max(groups),
        varlen=_has_varlen(device),
        video_rows_P=order[:packed].to(device),
        text_rows=order[packed:].to(device),
        text_places=order[packed:].sort().values.to(device),
        text_before=(0, *accumulate(length for group in groups.values() for _, length in group)),
        text_runs=runs,
    )


def _has_varlen(device: torch.device) -> bool:
    """Whether PyTorch's kernel for sequences of several lengths runs there: NVIDIA from Ampere on."""
    if device.type != "cuda" or not torch.backends.cuda.is_flash_attention_available():
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _side_by_side(clips: list[Tensor], one_size: bool) -> Tensor:
    """(G, S, ...) of what the tokens of every clip have."""
    return torch.stack(clips) if one_size else torch.cat(clips)[None]


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
    """The same through the kernel that serves the device and the dtype. Returns video (P, N, E) and text (L, N, E)."""
    q_PNE = video[0]
    half = q_PNE.dtype in (torch.float16, torch.bfloat16)
    varlen = plan.varlen and half and q_PNE.shape[-1] % 8 == 0 and q_PNE.shape[-1] <= 256
    return (varlen_attention if varlen else batched_attention)(video, text, plan)


def varlen_attention(video: QKV, text: QKV, plan: WindowPlan, kernel: Callable = varlen_attn) -> tuple[Tensor, Tensor]:
    """One call of `kernel` for all windows. It takes q, k, v (R, N, E) in half precision, the rows where sequences of
    queries and of keys start, int32, and their largest lengths; it cannot be differentiated twice."""
    q_RNE, k_RNE, v_RNE = (torch.cat(pair).index_select(0, plan.gather_R) for pair in zip(video, text, strict=True))
    result_RNE = kernel(q_RNE, k_RNE, v_RNE, plan.starts, plan.starts, plan.longest, plan.longest)
    return _back_to_grid(result_RNE, plan)


def batched_attention(video: QKV, text: QKV, plan: WindowPlan) -> tuple[Tensor, Tensor]:
    """One call of scaled_dot_product_attention for all windows of equal length, or, where no gradients are recorded,
    for as many of them as make a piece."""
    dtype, on_cpu = video[0].dtype, video[0].device.type == "cpu"
    # On the CPU the backward pass of this kernel is several times slower in bfloat16 than in float32.
    kernel_dtype = torch.promote_types(dtype, torch.float32) if on_cpu else dtype
    pairs = list(zip(video, text, strict=True))
    if torch.is_grad_enabled():  # one gather has one gradient; a gather per batch would have a full-size one each
        sizes = [windows * length for windows, length in plan.batches]
        joined = (torch.cat(pair).to(kernel_dtype).index_select(0, plan.gather_R).split(sizes) for pair in pairs)
        results = [_in_windows(*qkv, batch) for batch, *qkv in zip(plan.batches, *joined, strict=True)]
        result_RNE = torch.cat([result.flatten(0, 1) for result in results])
    else:
        result_RNE = video[0].new_empty(len(plan.gather_R), *video[0].shape[1:], dtype=kernel_dtype)
        for batch, here, text_places in _pieces(plan, video[0]):
            qkv = (_joined_rows(*pair, plan.gather_R[here], text_places).to(kernel_dtype) for pair in pairs)
            result_RNE[here].unflatten(0, batch).copy_(_in_windows(*qkv, batch))
    video_PNE, text_LNE = _back_to_grid(result_RNE, plan)
    return video_PNE.to(dtype), text_LNE.to(dtype)


def _in_windows(q: Tensor, k: Tensor, v: Tensor, batch: tuple[int, int]) -> Tensor:
    """Attention of windows of equal length, their rows (R, N, E) one after the other: (windows, S, N, E)."""
    q_WNSE, k_WNSE, v_WNSE = (part.unflatten(0, batch).transpose(1, 2) for part in (q, k, v))
    with torch.autocast("cpu", enabled=False):  # else it would turn q, k and v back into bfloat16
        return F.scaled_dot_product_attention(q_WNSE, k_WNSE, v_WNSE).transpose(1, 2)


def _pieces(plan: WindowPlan, like_PNE: Tensor) -> Iterator[tuple[tuple[int, int], slice, Tensor]]:
    """Some windows of equal length, as many as make a piece: (windows, S), their rows in window order, and where among
    these text stands."""
    rows, start, window = rows_in_piece(like_PNE.device, like_PNE[0].numel()), 0, 0
    for windows, length in plan.batches:
        at_once = max(1, rows // length)
        for first in range(0, windows, at_once):
            count = min(at_once, windows - first)
            stop = start + count * length
            text = slice(plan.text_before[window], plan.text_before[window + count])
            yield (count, length), slice(start, stop), plan.text_places[text] - start
            start, window = stop, window + count


def _joined_rows(video_PNE: Tensor, text_LNE: Tensor, rows: Tensor, text_places: Tensor) -> Tensor:
    """Rows of cat(video, text), without making all of it; those at `text_places` are text."""
    P = len(video_PNE)
    found = video_PNE.index_select(0, rows.clamp(max=P - 1))
    return found.index_copy_(0, text_places, text_LNE.index_select(0, rows[text_places] - P))


def _back_to_grid(result_RNE: Tensor, plan: WindowPlan) -> tuple[Tensor, Tensor]:
    """From window order: video tokens in their order, and for every text token the mean over its windows."""
    text_RNE = result_RNE.index_select(0, plan.text_rows)
    runs = text_RNE.split([tokens * windows for tokens, windows in plan.text_runs])
    means = [run.unflatten(0, shape).mean(1) for run, shape in zip(runs, plan.text_runs, strict=True)]
    return result_RNE.index_select(0, plan.video_rows_P), torch.cat(means)


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
        self.inner, self.head_dim = inner, head_dim
        self.attend = {"fast": fast_attention, "reference": reference_attention}[path]

    def forward(self, video_GSD: Tensor, text_GSD: Tensor, plan: WindowPlan) -> tuple[Tensor, Tensor]:
        """Both streams after attention, in the shapes given."""
        video = self._qkv(video_GSD, self.proj_qkv.video, self.norm_q.video, self.norm_k.video, plan.video_positions)
        text = self._qkv(text_GSD, self.proj_qkv.text, self.norm_q.text, self.norm_k.text, plan.text_positions)
        video_PNE, text_LNE = self.attend(video, text, plan)
        return (
            self.proj_out.video(video_PNE.flatten(1).view(*video_GSD.shape[:2], -1)),
            self.proj_out.text(text_LNE.flatten(1).view(*text_GSD.shape[:2], -1)),
        )

    def _qkv(self, x_GSD, projection, norm_q, norm_k, positions_GS3) -> QKV:
        def project(x_GSD, positions_GS3=None):
            q_GSNE, k_GSNE, v_GSNE = projection(x_GSD).unflatten(-1, (3, -1, self.head_dim)).unbind(2)
            return *self.rope(norm_q(q_GSNE), norm_k(k_GSNE), positions_GS3), v_GSNE

        tensors = (x_GSD,) if positions_GS3 is None else (x_GSD, positions_GS3)
        return tuple(part.flatten(0, 1) for part in in_pieces(project, *tensors, width=3 * self.inner))
