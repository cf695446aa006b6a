"""The training loop: one plain function, killed at any moment and resumed to the same result.

Every random number of a step comes from a generator seeded by (run seed, step). A resumed run therefore needs nothing
but the weights, the optimizer and the step number to see the same batches and the same noise as an unbroken one.
"""

import dataclasses
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from seedvr2_lab.console import InputError, progress


@dataclass(frozen=True)
class TrainConfig:
    steps: int
    learning_rate: float
    warmup: int = 50  # steps of linear rise; a cosine to zero follows
    weight_decay: float = 0.01
    gradient_clip: float = 1.0
    ema: float = 0.998
    seed: int = 0
    log_every: int = 20
    checkpoint_every: int = 200
    bf16: bool = True  # autocast of linear layers and convolutions


Loss = Callable[
    [nn.Module, int, torch.Generator], dict[str, Tensor]
]  # (model, step, generator) -> losses, "loss" their sum


def train(model: nn.Module, loss: Loss, config: TrainConfig, out: Path | None, device: str = "cpu") -> nn.Module:
    """Minimise `loss(model, step, generator)["loss"]` and return `model` holding the averaged (EMA) weights.

    With `out` (a folder) the run leaves `log.jsonl` and `checkpoint.pt` there and goes on from that checkpoint if it
    exists; the checkpoint of another configuration is refused. A loss that is not finite ends the run with the last
    good checkpoint kept.
    """
    model.to(device).train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay
    )
    ema = {name: value.detach().clone() for name, value in model.state_dict().items()}
    state = _resume(out, config)
    if state:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        ema = {name: value.to(device) for name, value in state["ema"].items()}
    first, elapsed, started = (
        (state["step"], state["seconds"], time.perf_counter()) if state else (0, 0.0, time.perf_counter())
    )

    bar = progress(range(first, config.steps), "train", unit="step")
    for step in bar:
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _schedule(step, config)
        with torch.autocast(device, torch.bfloat16, enabled=config.bf16):
            losses = loss(model, step, generator)
        if not torch.isfinite(losses["loss"]):
            raise FloatingPointError(
                f"the loss is {losses['loss']:g} at step {step}; the last checkpoint in {out} is good"
            )
        optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
        optimizer.step()
        decay = min(config.ema, (1 + step) / (10 + step))  # the first weights, random ones, are forgotten fast
        with torch.no_grad():
            for name, value in model.state_dict().items():
                ema[name].lerp_(value, 1 - decay)

        done, seconds = step + 1, elapsed + time.perf_counter() - started
        if out and (done % config.log_every == 0 or done == config.steps):
            numbers = {name: round(value.item(), 5) for name, value in {**losses, "gradient_norm": norm}.items()}
            with open(out / "log.jsonl", "a") as log:
                log.write(json.dumps({"step": done, "seconds": round(seconds, 1), **numbers}) + "\n")
            bar.set_postfix(loss=numbers["loss"])
        if out and (done % config.checkpoint_every == 0 or done == config.steps):
            _save(
                out / "checkpoint.pt",
                {
                    "config": dataclasses.asdict(config),
                    "step": done,
                    "seconds": seconds,
                    "model": model.state_dict(),
                    "ema": ema,
                    "optimizer": optimizer.state_dict(),
                },
            )
    model.load_state_dict(ema)
    return model.eval()


def _schedule(step: int, config: TrainConfig) -> float:
    if step < config.warmup:
        return (step + 1) / config.warmup
    return 0.5 + 0.5 * math.cos(math.pi * (step - config.warmup) / max(1, config.steps - config.warmup))


def _resume(out: Path | None, config: TrainConfig) -> dict | None:
    if out is None:
        return None
    out.mkdir(parents=True, exist_ok=True)
    if not (out / "checkpoint.pt").exists():
        (out / "log.jsonl").unlink(missing_ok=True)
        return None
    state = torch.load(out / "checkpoint.pt", weights_only=True)
    if state["config"] != dataclasses.asdict(config):
        raise InputError(f"{out} holds a run with other settings: give another --out, or delete it to start anew")
    lines = (out / "log.jsonl").read_text().splitlines() if (out / "log.jsonl").exists() else []
    kept = [line for line in lines if json.loads(line)["step"] <= state["step"]]  # later ones will be written again
    (out / "log.jsonl").write_text("".join(line + "\n" for line in kept))
    return state


def _save(path: Path, state: dict) -> None:
    torch.save(state, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)
