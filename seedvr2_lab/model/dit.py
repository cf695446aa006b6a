"""The diffusion transformer: predicts the velocity of a latent video, seeing text and the diffusion time.

One class holds both published designs and every size:

- v2 (3B): SwiGLU, the first layers with separate weights for video and text, rotary embedding of video and text, a
  modulated output head; the text of its last layer is used but not updated.
- v1 (7B): GELU, separate weights everywhere, rotary embedding of video only, a plain output head.

Parameter names are the published ones, so published checkpoints load strictly.

Legend: `B` clips, `C` channels, `T H W` frames/height/width, `L` text tokens, `D` width. `G S`: the video of B clips
of one size is (B, S, D), of several sizes (1, all tokens, D); text likewise. All that acts per clip broadcasts.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from math import log
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from seedvr2_lab.console import InputError
from seedvr2_lab.model.attention import AttentionPath, WindowAttention, WindowPlan, window_plan
from seedvr2_lab.model.layers import (
    GELU,
    Branches,
    LayerModulation,
    Modulation,
    OutputModulation,
    RMSNorm,
    SwiGLU,
    in_pieces,
)
from seedvr2_lab.model.rope import RopeKind
from seedvr2_lab.model.windows import Size, WindowScheme

Clips = Tensor | Sequence[Tensor]  # (B, C, T, H, W), or a list of (C, T, H, W) of any sizes


@dataclass(frozen=True)
class DiTConfig:
    """Size and design of a transformer. The defaults are the smallest model used for ablations."""

    variant: Literal["v1", "v2"] = "v2"
    dim: int = 96  # width D of both streams
    layers: int = 6
    heads: int = 3
    head_dim: int = 32
    separate_layers: int | tuple[bool, ...] = 0  # so many first layers, or these, have own weights for text (v1: all)
    mlp_hidden: int | None = None  # None: 8/3 D rounded up to a multiple of 256 (v2), 4 D (v1)
    in_channels: int = 33  # noised latent 16, low-quality latent 16, mask 1
    out_channels: int = 16
    patch: tuple[int, int] = (2, 2)  # latent pixels per token along h, w; one frame along t
    text_channels: int | None = None  # None or equal to `dim`: the text enters without a projection
    rope_dim: int | None = None  # features of a head that may turn; None: all (v2), half of them (v1)
    norm_eps: float = 1e-5
    windows: WindowScheme = field(default_factory=WindowScheme)
    attention: AttentionPath = "fast"

    def __post_init__(self):
        for name, choices in {"variant": ("v1", "v2"), "attention": ("fast", "reference")}.items():
            if getattr(self, name) not in choices:
                raise InputError(f"{name} is {getattr(self, name)!r}: choose {choices[0]!r} or {choices[1]!r}")
        if self.head_dim % 2:
            raise InputError(f"head_dim is {self.head_dim}: rotary embedding turns pairs, give an even number")

    @classmethod
    def from_published(cls, hyperparameters: dict) -> "DiTConfig":
        """From the names used by the published configuration files, e.g. {"vid_dim": 2560, "mm_layers": 10, ...}."""
        h = hyperparameters
        v2 = h["mlp_type"] == "swiglu"
        expected = {
            "txt_dim": h["vid_dim"], "emb_dim": 6 * h["vid_dim"], "ada": "single", "qk_bias": False,
            "mlp_type": "swiglu" if v2 else "normal", "shared_qkv": False, "shared_mlp": False,
            "window": [h["window"][0]] * h["num_layers"],
        }  # fmt: skip
        for name, value in expected.items():
            if (given := h.get(name, value)) != value:
                raise InputError(f"hyperparameter {name} is {given!r}: only {value!r} is supported")
        time_patch, *patch = h["patch_size"]
        if time_patch != 1:
            raise InputError(f"hyperparameter patch_size is {h['patch_size']}: only 1 along time is supported")
        expand = h["expand_ratio"]
        separate = h.get("mm_layers", h["num_layers"])
        return cls(
            variant="v2" if v2 else "v1",
            dim=h["vid_dim"],
            layers=h["num_layers"],
            heads=h["heads"],
            head_dim=h["head_dim"],
            separate_layers=separate if isinstance(separate, int) else tuple(separate),
            mlp_hidden=_round_up(int(2 * h["vid_dim"] * expand / 3), 256) if v2 else h["vid_dim"] * expand,
            in_channels=h["vid_in_channels"],
            out_channels=h["vid_out_channels"],
            patch=tuple(patch),
            text_channels=h["txt_in_dim"],
            rope_dim=h.get("rope_dim", h["head_dim"] // 2),
            norm_eps=h["norm_eps"],
            windows=WindowScheme(counts=tuple(h["window"][0])),
        )

    @property
    def rope(self) -> RopeKind:
        return "lang" if self.variant == "v2" else "pixel"

    def separate(self, layer: int) -> bool:
        """Whether this layer has own weights for text."""
        if isinstance(self.separate_layers, int):
            return self.variant == "v1" or layer < self.separate_layers
        return self.separate_layers[layer]


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


class PatchIn(nn.Module):
    """Latents to tokens: one token for each patch, features in the order (patch row, patch column, channel)."""

    def __init__(self, channels: int, patch: tuple[int, int], dim: int):
        super().__init__()
        self.patch = patch
        self.proj = nn.Linear(patch[0] * patch[1] * channels, dim)

    def forward(self, clips: Clips) -> Tensor:
        """(B, S, D) of a tensor, (1, all tokens, D) of a list."""
        y, x = self.patch
        if isinstance(clips, Tensor):
            return self.proj(rearrange(clips, "b c t (h y) (w x) -> b (t h w) (y x c)", y=y, x=x))
        tokens = [rearrange(clip, "c t (h y) (w x) -> (t h w) (y x c)", y=y, x=x) for clip in clips]
        return self.proj(torch.cat(tokens)[None])


class PatchOut(nn.Module):
    """Tokens back to latents."""

    def __init__(self, dim: int, patch: tuple[int, int], channels: int):
        super().__init__()
        self.patch = patch
        self.proj = nn.Linear(dim, patch[0] * patch[1] * channels)

    def forward(self, video_GSD: Tensor, grids: Sequence[Size]) -> Clips:
        tokens, (y, x) = self.proj(video_GSD), self.patch
        if len(tokens) == len(grids):
            T, H, W = grids[0]
            return rearrange(tokens, "b (t h w) (y x c) -> b c t (h y) (w x)", t=T, h=H, w=W, y=y, x=x)
        return [
            rearrange(clip, "(t h w) (y x c) -> c t (h y) (w x)", t=T, h=H, w=W, y=y, x=x)
            for clip, (T, H, W) in zip(tokens[0].split([T * H * W for T, H, W in grids]), grids, strict=True)
        ]


class TimeEmbedding(nn.Module):
    """Diffusion time in [0, 1000] to the six vectors of D numbers that modulate every layer."""

    WAVES = 128

    def __init__(self, dim: int):
        super().__init__()
        self.proj_in = nn.Linear(2 * self.WAVES, dim)
        self.proj_hid = nn.Linear(dim, dim)
        self.proj_out = nn.Linear(dim, 6 * dim)

    def forward(self, timestep_B: Tensor, dtype: torch.dtype) -> Tensor:
        """(2, 3, B, D): for attention and MLP; shift, scale and gate."""
        waves = torch.exp(-log(10_000) / self.WAVES * torch.arange(self.WAVES, device=timestep_B.device))
        phases = timestep_B.float()[:, None] * waves
        x = torch.cat([phases.sin(), phases.cos()], dim=-1).to(dtype)
        x = self.proj_out(F.silu(self.proj_hid(F.silu(self.proj_in(x)))))
        return rearrange(x, "b (d part kind) -> part kind b d", part=2, kind=3)


class Block(nn.Module):
    """One layer: attention in windows, then an MLP, each between a norm and a gate."""

    def __init__(self, config: DiTConfig, layer: int):
        super().__init__()
        c, shared = config, not config.separate(layer)
        # The last layer of v2 shows its text to the video unmodulated and does not update it.
        self.updates_text = c.variant == "v1" or layer < c.layers - 1
        mlp = SwiGLU if c.variant == "v2" else GELU
        hidden = c.mlp_hidden or (_round_up(int(8 * c.dim / 3), 256) if c.variant == "v2" else 4 * c.dim)
        rope_dim = c.rope_dim or (c.head_dim if c.variant == "v2" else c.head_dim // 2)
        self.attn = WindowAttention(
            c.dim, c.heads, c.head_dim, shared, c.rope, rope_dim, path=c.attention, eps=c.norm_eps
        )
        self.mlp = Branches(lambda: mlp(c.dim, hidden), shared, text=self.updates_text)
        self.ada = Branches(lambda: LayerModulation(c.dim), shared, text=self.updates_text)
        self.hidden, self.eps = hidden, c.norm_eps

    def forward(self, video_GSD: Tensor, text_GSD: Tensor, time_23BD: Tensor, plan: WindowPlan):
        """Both streams after the layer."""
        video_attn, video_mlp = self.ada.video(time_23BD, video_GSD, plan.video_lengths)
        video_in = self._before(video_GSD, video_attn)
        if not self.updates_text:
            video_update, _ = self.attn(video_in, self._norm(text_GSD), plan)
            return self._after(video_GSD, video_update, video_attn, video_mlp, self.mlp.video), text_GSD

        text_attn, text_mlp = self.ada.text(time_23BD, text_GSD, plan.text_lengths)
        video_update, text_update = self.attn(video_in, self._before(text_GSD, text_attn), plan)
        return (
            self._after(video_GSD, video_update, video_attn, video_mlp, self.mlp.video),
            self._after(text_GSD, text_update, text_attn, text_mlp, self.mlp.text),
        )

    def _before(self, x_GSD: Tensor, attn: Modulation) -> Tensor:
        """What attention sees of one branch."""

        def enter(x_GSD, *vectors):
            return (Modulation(*vectors).enter(self._norm(x_GSD)),)

        return in_pieces(enter, x_GSD, *attn, width=x_GSD.shape[-1])[0]

    def _after(self, x_GSD: Tensor, update_GSD: Tensor, attn: Modulation, mlp: Modulation, network: nn.Module):
        """One branch after what attention adds, and the MLP."""

        def finish(x_GSD, update_GSD, *vectors):
            attn, mlp = Modulation(*vectors[:3]), Modulation(*vectors[3:])
            x_GSD = attn.leave(x_GSD, update_GSD)
            return (mlp.leave(x_GSD, network(mlp.enter(self._norm(x_GSD)))),)

        return in_pieces(finish, x_GSD, update_GSD, *attn, *mlp, width=self.hidden)[0]

    def _norm(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], eps=self.eps)


class DiT(nn.Module):
    """The transformer. New weights follow PyTorch's defaults; modulation vectors are drawn around 0 and 1."""

    def __init__(self, config: DiTConfig):
        super().__init__()
        self.config = c = config
        projects_text = c.text_channels and c.text_channels != c.dim
        self.vid_in = PatchIn(c.in_channels, c.patch, c.dim)
        self.txt_in = nn.Linear(c.text_channels, c.dim) if projects_text else nn.Identity()
        self.emb_in = TimeEmbedding(c.dim)
        self.blocks = nn.ModuleList(Block(c, layer) for layer in range(c.layers))
        if c.variant == "v2":
            self.vid_out_norm = RMSNorm(c.dim, c.norm_eps)
            self.vid_out_ada = OutputModulation(c.dim)
        self.checkpointing = False  # keep only what enters each block, and run the block again for its gradients
        self.vid_out = PatchOut(c.dim, c.patch, c.out_channels)

    def forward(
        self,
        clips: Clips,
        text: Tensor | Sequence[Tensor],
        timestep: Tensor | float,
        return_blocks: Sequence[int] = (),
    ) -> Clips | tuple[Clips, list[Tensor]]:
        """Predict from latents, text and time.

        Args:
            clips: (B, C, T, H, W), or a list of (C, T, H, W) of any sizes; H and W whole patches.
            text: (L, C') for all clips, or one such tensor per clip.
            timestep: diffusion time in [0, 1000], one for all clips or (B,).
            return_blocks: numbers N of blocks.N whose video activations are wanted.

        Returns:
            Latents with `out_channels` channels, of the kind given; with `return_blocks` also a list of (P, D) packed
            video activations, clip after clip.

        Raises:
            InputError: wrong channels, incomplete patches, or not as many texts or timesteps as clips.
        """
        grids = self._grids(clips)
        texts, shared_text = ([text], True) if isinstance(text, Tensor) else (list(text), False)
        timestep_B = torch.as_tensor(timestep, device=clips[0].device).reshape(-1)
        self._check_conditions(len(grids), texts, shared_text, timestep_B)
        lengths = tuple(len(one) for one in texts) * (len(grids) if shared_text else 1)

        one_size = len(set(grids)) == 1
        batch = torch.stack(list(clips)) if one_size and not isinstance(clips, Tensor) else clips
        video_GSD = self.vid_in(batch)
        if shared_text:
            text_GSD = self.txt_in(texts[0]).expand(len(grids), -1, -1)
        else:
            text_GSD = self.txt_in(torch.cat(texts))[None]
            if len(set(lengths)) == 1:
                text_GSD = text_GSD.view(len(grids), lengths[0], -1)
        time_23BD = self.emb_in(timestep_B, video_GSD.dtype)

        c = self.config
        plans = [window_plan(grids, lengths, c.windows, shifted, c.rope, video_GSD.device) for shifted in (False, True)]
        activations = {}
        for layer, block in enumerate(self.blocks):
            if self.checkpointing and torch.is_grad_enabled():
                block = partial(checkpoint, block, use_reentrant=False, preserve_rng_state=False)
            video_GSD, text_GSD = block(video_GSD, text_GSD, time_23BD, plans[layer % 2])
            if layer in return_blocks:
                activations[layer] = video_GSD.flatten(0, 1)

        if c.variant == "v2":
            video_GSD = self.vid_out_ada(self.vid_out_norm(video_GSD), time_23BD, plans[0].video_lengths)
        out = self.vid_out(video_GSD, grids)
        if one_size and not isinstance(clips, Tensor):
            out = list(out)
        return (out, [activations[layer] for layer in return_blocks]) if return_blocks else out

    def _grids(self, clips: Clips) -> tuple[Size, ...]:
        c, (y, x) = self.config, self.config.patch
        grids = []
        for clip in clips:
            if clip.ndim != 4 or clip.shape[0] != c.in_channels:
                raise InputError(f"clip is {tuple(clip.shape)}: give ({c.in_channels}, frames, height, width)")
            T, H, W = clip.shape[1:]
            if H % y or W % x:
                raise InputError(f"latent is {H}x{W}: crop or pad its height and width to multiples of {y} and {x}")
            grids.append((T, H // y, W // x))
        return tuple(grids)

    def _check_conditions(self, clips: int, texts: list[Tensor], shared_text: bool, timestep_B: Tensor) -> None:
        channels = self.config.text_channels or self.config.dim
        if any(text.ndim != 2 or text.shape[1] != channels for text in texts):
            raise InputError(f"text is {[tuple(text.shape) for text in texts]}: give (tokens, {channels})")
        if not shared_text and len(texts) != clips:
            raise InputError(f"{len(texts)} texts for {clips} clips: give one for each or one tensor for all")
        if len(timestep_B) not in (1, clips):
            raise InputError(f"{len(timestep_B)} timesteps for {clips} clips: give one for each or one for all")
