"""The discriminator: a diffusion transformer that looks at a clip and says how real it is (the paper's section 3.3).

The backbone is the diffusion transformer itself, with the teacher's weights to begin with. After chosen blocks one
learned query looks at all tokens of a clip through cross-attention; what the queries have seen becomes one logit.
Clip and low-quality latent enter side by side, as they enter the generator.

Legend as in dit.py: `B` clips, `P` tokens of all clips, `D` width, `S` tokens of one clip, `N` heads, `E` head width.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from seedvr2_lab.console import InputError
from seedvr2_lab.model.diffusion import build_condition
from seedvr2_lab.model.dit import Clips, DiT, DiTConfig

PUBLISHED_BLOCKS, PUBLISHED_LAYERS = (16, 26, 36), 36


class Judgement(NamedTuple):
    """What the discriminator says of a batch."""

    logits_B: Tensor
    features: list[Tensor]  # (P, D) of every chosen block, before its cross-attention: what is matched (Eq. 4)
    lengths: tuple[int, ...]  # tokens of each clip


@dataclass(frozen=True)
class DiscriminatorConfig:
    """`blocks` are counted from 1, as in the paper; by default those at the published fractions of the depth,
    rounded up."""

    backbone: DiTConfig
    blocks: tuple[int, ...] | None = None

    def __post_init__(self):
        if self.blocks is None:
            blocks = {-(-self.backbone.layers * block // PUBLISHED_LAYERS) for block in PUBLISHED_BLOCKS}
            object.__setattr__(self, "blocks", tuple(sorted(blocks)))
        if not self.blocks or not all(1 <= block <= self.backbone.layers for block in self.blocks):
            raise InputError(f"discriminator blocks are {self.blocks}: give some of 1 to {self.backbone.layers}")


class QueryBlock(nn.Module):
    """One learned query attends to all tokens of a clip: cross-attention, then an MLP, no self-attention."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.randn(dim) / dim**0.5)
        self.norm_tokens, self.norm_query, self.norm_mlp = (nn.LayerNorm(dim) for _ in range(3))
        self.to_q, self.to_out = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.to_kv = nn.Linear(dim, 2 * dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU("tanh"), nn.Linear(4 * dim, dim))

    def forward(self, tokens_PD: Tensor, lengths: Sequence[int]) -> Tensor:
        """(B, D)."""
        q_N1E = rearrange(self.to_q(self.norm_query(self.query)), "(N E) -> N 1 E", N=self.heads)
        kv = rearrange(self.to_kv(self.norm_tokens(tokens_PD)), "P (two N E) -> two N P E", two=2, N=self.heads)
        seen = []
        for k_NSE, v_NSE in zip(*(part.split(tuple(lengths), 1) for part in kv), strict=True):
            # Written out, not by a fused kernel: exact gradient penalties differentiate twice.
            scores_N1S = q_N1E @ k_NSE.transpose(1, 2) * q_N1E.shape[-1] ** -0.5
            seen.append(rearrange(scores_N1S.softmax(-1) @ v_NSE, "N 1 E -> (N E)"))
        x_BD = self.query + self.to_out(torch.stack(seen))
        return x_BD + self.mlp(self.norm_mlp(x_BD))


class Discriminator(nn.Module):
    """Clips to logits; real clips are to score higher than restored ones."""

    def __init__(self, config: DiscriminatorConfig):
        super().__init__()
        self.config, c = config, config.backbone
        self.backbone = DiT(c)
        self.heads = nn.ModuleList(QueryBlock(c.dim, c.heads) for _ in config.blocks)
        self.norm = nn.LayerNorm(c.dim * len(config.blocks))
        self.to_logit = nn.Linear(c.dim * len(config.blocks), 1)

    @classmethod
    def from_teacher(cls, teacher: DiT, blocks: tuple[int, ...] | None = None) -> "Discriminator":
        """A discriminator whose backbone begins with the teacher's weights."""
        discriminator = cls(DiscriminatorConfig(teacher.config, blocks))
        discriminator.backbone.load_state_dict(teacher.state_dict())
        return discriminator

    def forward(self, clips: Clips, low: Clips, text: Tensor, timestep: Tensor | float) -> Judgement:
        """Judge latents (B, C, T, H, W), or a list of (C, T, H, W), each beside the low-quality latent of its clip.

        Args:
            timestep: in [0, 1000], one or (B,). Clips are clean; the time only tells the backbone which of its
                features to use. APT draws it at random, so the discriminator is an ensemble over times.
        """
        if isinstance(clips, Tensor):
            inputs = torch.cat([clips, build_condition(low)], 1)
        else:
            inputs = [torch.cat([clip, build_condition(one)]) for clip, one in zip(clips, low, strict=True)]
        _, features = self.backbone(inputs, text, timestep, return_blocks=[n - 1 for n in self.config.blocks])
        y, x = self.config.backbone.patch
        lengths = tuple(clip.shape[1] * (clip.shape[2] // y) * (clip.shape[3] // x) for clip in inputs)
        seen = [head(tokens, lengths) for head, tokens in zip(self.heads, features, strict=True)]
        device = seen[0].device.type  # "meta" knows no autocast
        with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
            # In float32, for penalties are small differences of logits.
            logits_B = self.to_logit(self.norm(torch.cat(seen, 1).to(self.norm.weight.dtype))).squeeze(1)
        return Judgement(logits_B, features, lengths)
