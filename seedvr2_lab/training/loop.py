"""The training loop: one plain function, killed at any moment and resumed to the same result.

Every random number of a step comes from a generator seeded by (run seed, step). A resumed run therefore needs nothing
but the weights, the optimizers and the step number to see the same batches and the same noise as an unbroken one.

A run has one player or several. Players take turns within a step, in their order, each on its own loss and with the
others frozen: that is all there is to adversarial training as far as the loop is concerned.
"""

import dataclasses
import json
import math
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from seedvr2_lab.console import InputError, TrainingFailed, progress, whole, write_whole
from seedvr2_lab.model.tensor_file import mapped


@dataclass(frozen=True)
class TrainConfig:
    steps: int
    learning_rate: float
    warmup: int = 50  # steps of linear rise; a cosine to zero follows
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)  # of AdamW
    gradient_clip: float = 1.0
    ema: float = 0.998
    seed: int = 0
    accumulate: int = 1  # batches whose gradients make one step
    log_every: int = 20
    checkpoint_every: int = 200
    bf16: bool = True  # autocast of linear layers and convolutions
    muon: bool = False  # the matrices of a transformer's blocks by Muon: 2 to 3 times fewer steps to a loss than AdamW


Loss = Callable[
    [nn.Module, int, torch.Generator], dict[str, Tensor]
]  # (model, step, generator) -> losses, "loss" their sum; other entries are logged


class Player(NamedTuple):
    """A network that learns, and what it minimises."""

    model: nn.Module
    loss: Loss


CHECKPOINT = "checkpoint.safetensors"

Watch = Callable[[int, Mapping[str, nn.Module]], None]  # (steps done, networks with their averaged weights)


def train(
    model: nn.Module,
    loss: Loss,
    config: TrainConfig,
    out: Path | None,
    device: str = "cpu",
    watch: Watch = lambda done, networks: None,
    known_by: Sequence[str] = (),
) -> nn.Module:
    """`train_players` with one player, "model"."""
    return train_players({"model": Player(model, loss)}, config, out, device, watch, known_by)["model"]


def train_players(
    players: Mapping[str, Player],
    config: TrainConfig,
    out: Path | None,
    device: str = "cpu",
    watch: Watch = lambda done, networks: None,
    known_by: Sequence[str] = (),
) -> dict[str, nn.Module]:
    """Train all players and return their networks holding the averaged (EMA) weights.

    With `out` (a folder) the run leaves `log.jsonl` and `checkpoint.safetensors` there and goes on from that checkpoint
    if it exists; the checkpoint of another configuration, or of something else in `known_by`, is refused. It holds
    weights, their averages and the optimizers' tensors by name, and the rest in its header.

    Args:
        watch: called after every checkpoint, to draw samples and the like; it must not draw from global generators.
        known_by: whatever decides the result beside `config`, such as hashes of a teacher and of the data.

    Raises:
        TrainingFailed: a loss was not finite, or raised this itself; the last good checkpoint is kept.
    """
    apprentices = {name: _Apprentice(player, config, device) for name, player in players.items()}
    identity = {**dataclasses.asdict(config), "known by": list(known_by)}
    first, seconds, saved = _resume(out, identity)
    if saved:
        for name, apprentice in apprentices.items():
            apprentice.load(_below(name, saved))
    started = time.perf_counter() - seconds

    bar = progress(range(first, config.steps), "train", unit="step")
    for step in bar:
        generator = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
        numbers = {}
        for name, apprentice in apprentices.items():
            for other in apprentices.values():
                other.model.requires_grad_(other is apprentice)
            prefix = f"{name}." if len(apprentices) > 1 else ""
            try:
                found = apprentice.learn(step, generator)
            except TrainingFailed as failure:
                kept = f"; the last checkpoint is {out / CHECKPOINT}" if out else ""
                raise TrainingFailed(f"step {step}: {failure}{kept}") from None
            numbers |= {prefix + key: value for key, value in found.items()}

        done, seconds = step + 1, time.perf_counter() - started
        if out and (done % config.log_every == 0 or done == config.steps):
            row = {"step": done, "seconds": round(seconds, 1)}
            row |= {name: round(value.item(), 5) for name, value in numbers.items()}
            with open(out / "log.jsonl", "a") as log:
                log.write(json.dumps(row) + "\n")
            bar.set_postfix({name: value for name, value in row.items() if name.endswith("loss")})
        if out and (done % config.checkpoint_every == 0 or done == config.steps):
            tensors = {
                f"{name}/{key}": value.contiguous()
                for name, apprentice in apprentices.items()
                for key, value in apprentice.tensors().items()
            }
            header = {"config": identity, "step": done, "seconds": seconds}
            with whole(out / CHECKPOINT) as new:
                save_file(tensors, new, metadata={key: json.dumps(value) for key, value in header.items()})
            with ExitStack() as averaged:
                watch(done, {name: averaged.enter_context(one.averaged()) for name, one in apprentices.items()})
    return {name: apprentice.finished() for name, apprentice in apprentices.items()}


class _Apprentice:
    """A player with its optimizers and the average of its weights."""

    def __init__(self, player: Player, config: TrainConfig, device: str):
        self.model, self.loss, self.config, self.device = player.model.to(device).train(), player.loss, config, device
        self.optimizers = _optimizers(self.model, config)
        self.ema = {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def learn(self, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        """One update. Returns the losses of the (last) batch and the norm of the gradient."""
        self.model.zero_grad(set_to_none=True)
        for _ in range(self.config.accumulate):
            with torch.autocast(torch.device(self.device).type, torch.bfloat16, enabled=self.config.bf16):
                losses = self.loss(self.model, step, generator)
            if not torch.isfinite(losses["loss"]):
                raise TrainingFailed(f"the loss is {losses['loss']:g}")
            (losses["loss"] / self.config.accumulate).backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.gradient_clip)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.config.learning_rate * _schedule(step, self.config)
            optimizer.step()
        decay = min(self.config.ema, (1 + step) / (10 + step))  # the first weights, random ones, are forgotten fast
        with torch.no_grad():
            for name, value in self.model.state_dict().items():
                self.ema[name].lerp_(value, 1 - decay)
        return {name: value.detach() for name, value in {**losses, "gradient_norm": norm}.items()}

    def tensors(self) -> dict[str, Tensor]:
        """All that is to be kept: "model/NAME", "ema/NAME" and "optimizer.I/PARAMETER/NAME"."""
        parts = {"model": self.model.state_dict(), "ema": self.ema}
        for i, optimizer in enumerate(self.optimizers):
            parts |= {f"optimizer.{i}/{key}": state for key, state in optimizer.state_dict()["state"].items()}
        return {f"{part}/{name}": value for part, values in parts.items() for name, value in values.items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what `tensors` gave. The optimizers' own settings follow from the configuration."""
        self.model.load_state_dict(_below("model", tensors))
        self.ema = {name: value.to(self.device, copy=True) for name, value in _below("ema", tensors).items()}
        for i, optimizer in enumerate(self.optimizers):
            state = defaultdict(dict)
            for name, value in _below(f"optimizer.{i}", tensors).items():
                parameter, key = name.split("/")
                state[int(parameter)][key] = value.clone()  # the file may be replaced while it is mapped
            optimizer.load_state_dict(optimizer.state_dict() | {"state": dict(state)})

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The network with its averaged weights, for a while."""
        weights = {name: value.clone() for name, value in self.model.state_dict().items()}
        self.model.load_state_dict(self.ema)
        try:
            yield self.model.eval()
        finally:
            self.model.load_state_dict(weights)
            self.model.train()

    def finished(self) -> nn.Module:
        self.model.load_state_dict(self.ema)
        return self.model.requires_grad_(True).eval()


def _optimizers(model: nn.Module, config: TrainConfig) -> list[torch.optim.Optimizer]:
    rate, decay = config.learning_rate, config.weight_decay
    matrices = [
        value for name, value in model.named_parameters() if config.muon and value.ndim == 2 and "blocks." in name
    ]
    others = [value for value in model.parameters() if not any(value is matrix for matrix in matrices)]
    optimizers = [torch.optim.AdamW(others, lr=rate, betas=config.betas, weight_decay=decay)]
    if matrices:  # updates of AdamW's size, so that one learning rate serves both
        optimizers.append(torch.optim.Muon(matrices, lr=rate, weight_decay=decay, adjust_lr_fn="match_rms_adamw"))
    return optimizers


def _schedule(step: int, config: TrainConfig) -> float:
    if step < config.warmup:
        return (step + 1) / config.warmup
    return 0.5 + 0.5 * math.cos(math.pi * (step - config.warmup) / max(1, config.steps - config.warmup))


def _below(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}/"): value for key, value in tensors.items() if key.startswith(f"{name}/")}


def read_log(path: Path) -> list[dict]:
    """The rows of a log, up to the first that was cut off."""
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def last_rows(log: Sequence[dict]) -> list[dict]:
    """The last row of each training in a log of several."""
    return [row for row, after in zip(log, [*log[1:], {"step": 0}], strict=False) if after["step"] <= row["step"]]


def _resume(out: Path | None, identity: dict) -> tuple[int, float, dict[str, Tensor]]:
    """Steps done, seconds they took, and the checkpoint's tensors."""
    if out is None:
        return 0, 0.0, {}
    out.mkdir(parents=True, exist_ok=True)
    if not (out / CHECKPOINT).exists():
        (out / "log.jsonl").unlink(missing_ok=True)
        return 0, 0.0, {}
    header, tensors = mapped(out / CHECKPOINT)
    config, step, seconds = (json.loads(header[key]) for key in ("config", "step", "seconds"))
    if config != json.loads(json.dumps(identity)):  # which knows no tuples
        raise InputError(
            f"{out} holds a run with other settings, models or data: give another --out, or delete it to start anew"
        )
    rows = read_log(out / "log.jsonl") if (out / "log.jsonl").exists() else []
    kept = [row for row in rows if row["step"] <= step]  # later ones will be written again
    write_whole(out / "log.jsonl", "".join(json.dumps(row) + "\n" for row in kept))
    return step, seconds, tensors
