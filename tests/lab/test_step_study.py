"""The study of steps: against a flow that can be integrated, and the records that it reads."""

import pytest
import torch

from seedvr2_lab.lab import step_study
from seedvr2_lab.lab.step_study import PEAKS, SPREAD, halvings, judged, known_velocity, restored, training_seconds, walk
from seedvr2_lab.model.diffusion import T_MAX, sample
from seedvr2_lab.model.weights import BUNDLED, load_generator, load_vae
from seedvr2_lab.training.validation import crops_of


def test_the_known_velocity_is_the_mean_over_many_pairs():
    random = torch.Generator().manual_seed(0)
    count, moment, at, width = 4_000_000, 600.0, 0.3, 0.01
    peaks = torch.tensor(PEAKS)[torch.randint(2, (count,), generator=random)]
    clean, noise = (peaks + SPREAD * torch.randn(count, generator=random)), torch.randn(count, generator=random)
    x = (1 - moment / T_MAX) * clean + moment / T_MAX * noise
    near = (x - at).abs() < width
    expected = known_velocity(torch.tensor([at], dtype=torch.float64), moment).item()
    assert (noise - clean)[near].mean().item() == pytest.approx(expected, abs=0.02)


def test_many_steps_end_at_the_peaks_and_one_step_between_them():
    noise = torch.special.ndtri(torch.linspace(0.001, 0.999, 999, dtype=torch.float64))
    ends = {n: sample(known_velocity, noise, n) for n in (1, 512)}
    assert ((ends[512].abs() - 1).abs() < 3 * SPREAD).double().mean() > 0.95
    assert ends[1].abs().max() < 0.1


@pytest.mark.parametrize("steps", [2, 8, 64])
def test_perfect_students_end_where_their_teacher_ends(steps):
    noise = torch.linspace(-2, 2, 41, dtype=torch.float64)
    expected, students = sample(known_velocity, noise, steps), halvings(known_velocity, steps)
    assert min(students) == 1 and max(students) == steps // 2
    for n, velocity in students.items():
        torch.testing.assert_close(sample(velocity, noise, n), expected, rtol=0, atol=1e-12)


def test_a_walk_ends_where_sampling_does():
    noise = torch.linspace(-2, 2, 5, dtype=torch.float64)
    path = walk(known_velocity, noise, 7)
    assert path.times[0] == T_MAX and path.times[-1] == 0 and path.x_NP.shape == (8, 5)
    assert torch.equal(path.x_NP[0], noise)
    torch.testing.assert_close(path.x_NP[-1], sample(known_velocity, noise, 7))


def test_crops_of_a_seed_are_the_same_and_figures_know_the_original():
    vae, made = load_vae("small"), load_generator("teacher")
    first, again, other = (crops_of("evaluation", vae, ("light",), 1, 2, seed) for seed in (0, 0, 1))
    assert torch.equal(first.clips_BCTHW, again.clips_BCTHW) and torch.equal(first.noise_BCTHW, again.noise_BCTHW)
    assert not torch.equal(first.clips_BCTHW, other.clips_BCTHW)
    one, two = (restored(made, vae, first, steps) for steps in (1, 2))
    assert one.figures != two.figures and one.seconds > 0
    ceiling, given = (judged(vae, first, latent) for latent in reversed(first.pairs))
    assert ceiling.figures["psnr"] > given.figures["psnr"] and given.seconds == 0


def test_the_seconds_of_each_training_behind_a_file(tmp_path):
    rows = [(50, 1.0), (100, 2.5), (50, 0.5), (100, 4.0), (100, 3.0)]
    text = "".join(f'{{"step": {step}, "seconds": {seconds}}}\n' for step, seconds in rows)
    (tmp_path / "x.log.jsonl").write_text(text)
    assert training_seconds(tmp_path / "x.safetensors") == [2.5, 4.0, 3.0]


def test_the_record_of_the_bundled_student_has_a_row_for_every_halving():
    file = BUNDLED / "dit_distilled.safetensors"
    students = step_study.recorded_halvings(file)
    assert list(students) == [32, 16, 8, 4, 2, 1] and len(training_seconds(file)) == 6
    assert students[1]["psnr, restored, 1 frames"] > 0
