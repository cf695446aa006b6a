"""How much memory adversarial post-training needs, for models that do not fit here: counted on tensors without content.

Both players are counted: the generator, and the discriminator with a backbone of the same size. What is resident all
the time follows from the number of parameters; what a forward pass keeps for its backward pass is recorded, tensor by
tensor, on the meta device.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from seedvr2_lab.config import TRANSFORMERS, transformer_config
from seedvr2_lab.console import InputError
from seedvr2_lab.model.discriminator import Discriminator, DiscriminatorConfig
from seedvr2_lab.model.dit import DiT, DiTConfig

MASTER, HALF, GRADIENT, AVERAGE = 4, 2, 4, 4  # bytes a parameter; autocast keeps a bfloat16 copy of the weights
OPTIMIZER = 8  # AdamW keeps two float32 numbers a parameter
PASSES = 4  # of the discriminator in its own turn: real, restored, and both noised for the approximated penalties
CLIPS_720P = ((1, 90, 160), (2, 90, 160), (6, 90, 160), (26, 90, 160))  # latents of 1, 5, 21 and 101 frames


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes, for both players together."""

    parameters: int  # numbers, not bytes
    weights: int
    gradients: int  # of the larger player: those of the other are dropped before
    optimizers: int
    averages: int
    activations: int  # of the larger turn

    @property
    def total(self) -> int:
        return self.weights + self.gradients + self.optimizers + self.averages + self.activations


def memory_plan(
    config: DiTConfig, latent_THW: tuple[int, int, int], clips: int = 1, text_tokens: int = 58
) -> dict[bool, MemoryPlan]:
    """One device's training step under bfloat16 autocast without sharding: {False: as it is, True: checkpointing}.

    With checkpointing, blocks keep what enters them and run again in the backward pass. The generator's turn keeps its
    own activations and those of the discriminator's pass over the restored clips, the discriminator's turn those of
    four passes.

    Args:
        latent_THW: of each clip, such as (1, 90, 160) for a picture of 720p.
        clips: in a batch on one device.
    """
    with torch.device("meta"):
        dit, discriminator = DiT(config).bfloat16(), Discriminator(DiscriminatorConfig(config)).bfloat16()
        parameters = [sum(value.numel() for value in network.parameters()) for network in (dit, discriminator)]
        like = {"dtype": torch.bfloat16}
        x, low = (torch.empty(clips, config.out_channels, *latent_THW, **like) for _ in range(2))
        both = torch.empty(clips, config.in_channels, *latent_THW, **like)
        text = torch.empty(text_tokens, config.text_channels or config.dim, **like)
        generated = kept_for_backward(dit, dit.blocks, lambda: dit(both, text, 500.0))
        judged = kept_for_backward(
            discriminator, discriminator.backbone.blocks, lambda: discriminator(x, low, text, 500.0)
        )
    return {
        checkpointing: MemoryPlan(
            parameters=sum(parameters),
            weights=(MASTER + HALF) * sum(parameters),
            gradients=GRADIENT * max(parameters),
            optimizers=OPTIMIZER * sum(parameters),
            averages=AVERAGE * sum(parameters),
            activations=max(generated[checkpointing] + judged[checkpointing], PASSES * judged[checkpointing]),
        )
        for checkpointing in (False, True)
    }


class _FusedAttention(torch.autograd.Function):
    """What a fused kernel keeps: queries, keys, values, result and one number a query, never the scores."""

    @staticmethod
    def forward(ctx, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        result = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, result, torch.empty(q.shape[:-1], device=q.device))
        return result

    @staticmethod
    def backward(ctx, gradient: Tensor):
        raise NotImplementedError("only the forward pass is planned")


class _Fused(TorchFunctionMode):
    """On the meta device PyTorch would count the kernel that keeps all scores."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is F.scaled_dot_product_attention:
            return _FusedAttention.apply(*args)
        return function(*args, **kwargs or {})


def kept_for_backward(network: nn.Module, blocks: nn.ModuleList, run: Callable[[], object]) -> dict[bool, int]:
    """Bytes that `run()` leaves for its backward pass, parameters aside: {False: all, True: with checkpointing}.

    With checkpointing they are what is kept outside of the blocks, what enters each block, and all of one block, the
    largest, while it runs again.
    """
    parameters = {value.untyped_storage()._cdata for value in network.parameters()}
    seen, entered, at_start = {}, 0, []

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if not isinstance(tensor, nn.Parameter) and storage._cdata not in parameters:
            seen[storage._cdata] = storage  # held, so that no other storage gets its address
        return tensor

    def kept() -> int:
        return sum(storage.nbytes() for storage in seen.values())

    def enter(block: nn.Module, inputs: tuple) -> None:
        nonlocal entered
        entered += sum(one.nbytes for one in inputs[:2])
        at_start.append(kept())

    handles = [block.register_forward_pre_hook(enter) for block in blocks]
    handles.append(blocks[-1].register_forward_hook(lambda *_: at_start.append(kept())))
    with _Fused(), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = run()  # held: a graph that is dropped takes its tensors along
    for handle in handles:
        handle.remove()
    whole, inside, largest = kept(), at_start[-1] - at_start[0], max(b - a for a, b in pairwise(at_start))
    del result
    return {False: whole, True: whole - inside + entered + largest}


def plan_table(size: str) -> str:
    """Markdown: the memory of one adversarial step on a 720p picture and on clips, one a batch."""
    if size not in TRANSFORMERS:
        raise InputError(f"there is no size '{size}': choose one of {', '.join(TRANSFORMERS)}")
    config, lines = transformer_config(size), []
    for latent in CLIPS_720P:
        plans = memory_plan(config, latent)
        for checkpointing, plan in plans.items():
            parts = (plan.weights, plan.gradients, plan.optimizers, plan.averages, plan.activations, plan.total)
            cells = " | ".join(f"{part / 1e9:.1f}" for part in parts)
            frames = (latent[0] - 1) * 4 + 1
            lines.append(f"| {frames}x720x1280 | {'yes' if checkpointing else 'no'} | {cells} |")
    head = "| clip | checkpointing | weights | gradients | AdamW | averages | activations | together |"
    title = f"{size}: {plan.parameters / 1e9:.2f} thousand million parameters in both players; memory in GB"
    return "\n".join([title, "", head, "|---" * 8 + "|", *lines])
