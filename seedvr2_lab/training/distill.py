"""Distillation: from a teacher of many steps to a student of one.

- *Progressive* (the paper's section 3.3; Salimans and Ho 2022): the student of n/2 steps learns to do in one step what
  its teacher of n steps does in two, then becomes the teacher of the next halving: 64, 32, ... 1. Guidance is folded
  in by the first halving; after it the text alone says it all.
- *Towards the truth*: the last student may learn from the clean latents beside its teacher. It cannot know which of the
  possible ones is meant, and what it learns of them is their mean.
- *To another size*: a smaller student learns the one step of a larger model, as the paper's 3B does from its 7B.
- *Consistency* (discrete time, the first stage of APT; Song et al. 2023): the clean latents that the student sees from
  two neighbouring points of the teacher's path are to agree; at time 0 it is the point itself.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from seedvr2_lab.console import InputError
from seedvr2_lab.model.diffusion import (
    T_MAX,
    Velocity,
    build_condition,
    clean_from_velocity,
    conditioned,
    euler_step,
    mix,
    one_step,
    sample,
)
from seedvr2_lab.model.dit import DiT
from seedvr2_lab.model.weights import Generator
from seedvr2_lab.training.loop import Loss
from seedvr2_lab.training.pairs import Pairs
from seedvr2_lab.training.schedule import LAST_NOISE, LAST_TRUTH


@dataclass(frozen=True)
class Teacher:
    """A frozen teacher, the texts it reads, the guidance it is used with (1: none) and the noise it starts from."""

    dit: DiT
    positive_LD: Tensor
    negative_LD: Tensor | None = None
    guidance: float = 1.0
    noise_scale: float = 1.0

    def velocity(self, condition: Tensor) -> Velocity:
        return conditioned(self.dit, condition, self.positive_LD, self.negative_LD, self.guidance)


def teacher_of(taught: Generator, device: str = "cpu") -> Teacher:
    """A model as the teacher of another, with its own guidance and noise."""
    texts = (None if text is None else text.to(device) for text in (taught.text, taught.negative_text))
    return Teacher(taught.dit.to(device).requires_grad_(False), *texts, taught.guidance, taught.noise_scale)


def student_of(
    taught: Generator, batches: Sequence[tuple[Pairs, int]], device: str = "cpu", last_noise: float = LAST_NOISE
) -> tuple[Generator, Loss]:
    """The student of half a teacher's steps, which begins with its weights, and what it minimises. The one of a single
    step learns from the clean latents, too, and starts from `last_noise` of the noise."""
    teacher = teacher_of(taught, device)
    learner = copy.deepcopy(taught.dit).requires_grad_(True)
    student = taught._replace(dit=learner, steps=taught.steps // 2, guidance=1.0)
    if student.steps > 1:
        return student, halving_loss(teacher, taught.steps, batches)
    loss = matching_loss(teacher, taught.steps, batches, teacher.positive_LD, last_noise, LAST_TRUTH)
    return student._replace(noise_scale=last_noise), loss


def two_steps_as_one(velocity: Velocity, x: Tensor, time: Tensor, until: Tensor) -> Tensor:
    """The velocity that takes x in one Euler step to where `velocity` takes it in two equal ones."""
    middle = (time + until) / 2
    first = velocity(x, time)
    second = velocity(euler_step(x, first, time, middle), middle)
    return (first + second) / 2


def halving_loss(teacher: Teacher, teacher_steps: int, batches: Sequence[tuple[Pairs, int]]) -> Loss:
    """One stage of progressive distillation: mean squared error of the velocity at the student's own times.

    Raises InputError unless `teacher_steps` is an even number.
    """
    if teacher_steps < 2 or teacher_steps % 2:
        raise InputError(f"the teacher has {teacher_steps} steps: give an even number, a student has half of them")
    student_steps = teacher_steps // 2

    def loss(student: DiT, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        x, condition, time, until = _point_on_a_path(student, batches, step, student_steps, generator)
        with torch.no_grad():
            target = two_steps_as_one(teacher.velocity(condition), x, time, until)
        velocity = conditioned(student, condition, teacher.positive_LD)(x, time)
        return {"loss": (velocity - target).square().flatten(1).mean(1).mean()}

    return loss


def consistency_loss(teacher: Teacher, steps: int, batches: Sequence[tuple[Pairs, int]]) -> Loss:
    """Mean squared distance between the clean latents seen from neighbours on a path of `steps` steps.

    The one seen from the less noisy neighbour is the target and gets no gradient (Song and Dhariwal 2023 found the
    current weights the better target than averaged ones).
    """
    if steps < 1:
        raise InputError(f"consistency is asked for on {steps} steps: give at least 1")

    def loss(student: DiT, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        x, condition, time, until = _point_on_a_path(student, batches, step, steps, generator)
        velocity = conditioned(student, condition, teacher.positive_LD)
        with torch.no_grad():
            neighbour = euler_step(x, teacher.velocity(condition)(x, time), time, until)
            target = clean_from_velocity(neighbour, velocity(neighbour, until), until)  # the neighbour itself at 0
        clean = clean_from_velocity(x, velocity(x, time), time)
        return {"loss": (clean - target).square().flatten(1).mean(1).mean()}

    return loss


def matching_loss(
    teacher: Teacher,
    steps: int,
    batches: Sequence[tuple[Pairs, int]],
    text_LD: Tensor,
    noise_scale: float = 1.0,
    truth: float = 0.0,
) -> Loss:
    """All of a teacher's `steps` in one of the student's: mean squared error of the clean latent, at time 1000 the same
    as that of the velocity. The student may be of another size.

    Where a share w of the clips has the true latent as its target, the best student restores (1 - w) of what its
    teacher draws from that noise and w of the mean of all true ones: where those are Gaussian its squared error is
    1 + (1 - w)² times that of the mean, against twice that of a faithful student. The teacher is asked about the other
    clips alone, which saves most of its time.

    Args:
        text_LD: the student's own text, as wide as it reads.
        noise_scale: of the student's noise, which is the teacher's own but for its strength.
        truth: the share w.
    """

    def loss(student: DiT, step: int, generator: torch.Generator) -> dict[str, Tensor]:
        pool, count = batches[step % len(batches)]
        low, high = pool.draw(count, generator, next(student.parameters()).device)
        noise = torch.randn(low.shape, generator=generator).to(low.device)
        condition = build_condition(low)
        is_drawn = torch.rand(count, generator=generator) >= truth
        target = high.clone()
        if is_drawn.any():
            with torch.no_grad():
                velocity = teacher.velocity(condition[is_drawn])
                target[is_drawn] = sample(velocity, teacher.noise_scale * noise[is_drawn], steps).to(target)
        restored = one_step(student, noise_scale * noise, condition, text_LD)
        return {"loss": (restored - target).square().mean(), "error": (restored - high).square().mean()}

    return loss


def _point_on_a_path(
    student: DiT, batches: Sequence[tuple[Pairs, int]], step: int, steps: int, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x_t between clean latents and noise, its condition, and t and the next time of a sampler of so many steps."""
    pool, count = batches[step % len(batches)]
    device = next(student.parameters()).device
    low, high = pool.draw(count, generator)
    noise = torch.randn(low.shape, generator=generator)
    place = torch.randint(1, steps + 1, (count,), generator=generator)
    time, until = T_MAX * place / steps, T_MAX * (place - 1) / steps
    return tuple(part.to(device) for part in (mix(high, noise, time), build_condition(low), time, until))
