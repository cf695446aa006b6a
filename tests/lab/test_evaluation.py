"""The evaluation of models, and that the bundled ones are what the README says."""

import json
import re
from itertools import product
from pathlib import Path
from statistics import fmean

import pytest
import torch

from seedvr2_lab.console import InputError
from seedvr2_lab.lab import evaluation
from seedvr2_lab.lab.evaluation import BICUBIC, CEILING, CONTROL, alignment, as_markdown, evaluate, noise_instead
from seedvr2_lab.media.clips import EVALUATION, load_picture, sample_clips
from seedvr2_lab.media.video_writer import VideoWriter
from seedvr2_lab.model.weights import BUNDLED, load_vae
from seedvr2_lab.training.validation import vae_validation

ROOT = Path(__file__).parents[2]
BUNDLED_MODELS = ("tiny", "distilled")


def rows_of(text):
    """The rows of a Markdown table by their first cell, as numbers."""
    rows = (re.split(r"\s*\|\s*", line.strip("| ")) for line in text.splitlines()[2:])
    return {name: [float(cell) for cell in cells] for name, *cells in rows}


def check_readme(preset):
    """The README's table of a preset is what comes out; returns its rows by source and method."""
    table = evaluate(BUNDLED_MODELS, presets=[preset])
    readme = (ROOT / "README.md").read_text()
    start = readme.index(f"| `{preset}`: chelsea")
    told, found = rows_of(readme[start : readme.index("\n\n", start)]), rows_of(as_markdown(table))
    for name, cells in found.items():
        assert told[name] == pytest.approx(cells, abs=0.02), name
    return {(row["source"], row["method"]): row for row in table}


def mean(rows, method, metric):
    return fmean(rows[picture, method][metric] for picture in EVALUATION)


@pytest.mark.parametrize("preset", ["light", pytest.param("paper", marks=pytest.mark.slow)])
def test_the_bundled_models_are_what_the_readme_says(preset):
    """The finished model looks more like real pictures than the distilled one, by more than noise would."""
    rows = check_readme(preset)
    for picture, metric in product(EVALUATION, ("psnr", "ssim")):
        assert rows[picture, BICUBIC][metric] < rows[picture, CEILING][metric]
    for metric in ("texture", "spectrum", "piqe"):
        assert mean(rows, "tiny", metric) < mean(rows, "distilled", metric) < mean(rows, BICUBIC, metric)
    assert mean(rows, BICUBIC, "high_frequency") < mean(rows, "distilled", "high_frequency")
    assert mean(rows, "distilled", "high_frequency") < mean(rows, "tiny", "high_frequency") < 1
    assert mean(rows, "tiny", "texture") < mean(rows, CONTROL, "texture")
    assert mean(rows, "tiny", "ssim") > mean(rows, CONTROL, "ssim")
    for metric in ("psnr", "ssim"):
        assert mean(rows, "distilled", metric) > mean(rows, BICUBIC, metric)
    assert mean(rows, "tiny", "psnr") > mean(rows, "distilled", "psnr") - 1


def test_halving_keeps_what_the_teacher_does_and_the_last_one_gains_fidelity_by_the_records():
    teacher, distilled = (json.loads((BUNDLED / f"dit_{name}.json").read_text()) for name in ("teacher", "distilled"))
    *samplers, last = distilled["steps of the student"].values()
    for frames in ("1 frames", "5 frames"):
        many = {meter: teacher["validation"][f"{meter}, restored, {frames}"] for meter in ("psnr", "texture")}
        for student in samplers:
            assert abs(student[f"psnr, restored, {frames}"] - many["psnr"]) < 0.6
            assert student[f"texture, restored, {frames}"] < many["texture"] + 0.1
        assert last[f"psnr, restored, {frames}"] > max(many["psnr"] + 1, last[f"psnr, input, {frames}"])


@pytest.fixture
def crops(monkeypatch):
    """Small pieces of the evaluation pictures instead of whole ones."""
    monkeypatch.setattr(evaluation, "load_picture", lambda name: load_picture(name)[:, 40:90, 40:106])


def test_methods_presets_and_seeds(crops):
    models = ("tiny", "tiny@2")
    rows = {(r["source"], r["preset"], r["method"]): r for r in evaluate(models, ("simple", "paper"), seeds=(0,))}
    assert {key[2] for key in rows} == {BICUBIC, *models, CEILING} and len(rows) == 3 * 2 * 4
    one, two = (rows["china", "simple", model] for model in models)
    assert one["psnr"] != two["psnr"] and "flicker" not in one
    assert rows["china", "simple", CEILING]["psnr"] == rows["china", "paper", CEILING]["psnr"]
    both = evaluate(("tiny",), seeds=(0, 1))
    single = [evaluate(("tiny",), seeds=(seed,)) for seed in (0, 1)]
    assert both[1]["psnr"] == pytest.approx((single[0][1]["psnr"] + single[1][1]["psnr"]) / 2)


def test_two_models_of_one_name_are_not_averaged():
    with pytest.raises(InputError, match="two models are called 'tiny'"):
        evaluate(("tiny", str(BUNDLED / "dit_tiny.safetensors")))


def test_footage_is_measured_beside_the_pictures_with_its_flicker(crops, tmp_path):
    clip = sample_clips("validation", 1, 9, (48, 64), torch.Generator().manual_seed(0))[0]
    with VideoWriter(tmp_path / "clip.mp4", 48, 64, rate=25, codec="lossless") as writer:
        writer.write((clip * 255).round().byte().permute(1, 2, 3, 0).contiguous().numpy())
    table = evaluate(seeds=(0,), footage=tmp_path / "clip.mp4")
    rows = [row for row in table if row["source"] == "clip.mp4"]
    assert [row["method"] for row in rows] == [BICUBIC, "tiny", CEILING] and all(row["flicker"] > 0 for row in rows)
    parts = as_markdown(table).split("\n\n")
    assert len(parts) == 2 and "flicker" not in parts[0] and "flicker" in parts[1]


def test_the_control_is_noise_as_strong_as_the_adversarial_difference(monkeypatch):
    reference = load_picture("china")[:, None, 40:90, 40:106]
    black, grey = torch.zeros_like(reference) + 0.5, torch.zeros_like(reference) + 0.5
    grey[..., ::2] += 0.1

    def method(name, output):
        restorer = lambda *given, **more: output  # noqa: E731
        restorer.vae = load_vae("small")
        return evaluation.Method(name, restorer, None)

    methods = [method("distilled", black), method("tiny", grey)]
    outputs = dict(evaluation._outputs(methods, reference[..., :48, :64], "simple", 0))
    assert (outputs[CONTROL] - black).square().mean().sqrt() == pytest.approx(0.1 / 2**0.5, rel=0.1)  # of its energy
    assert CONTROL not in dict(evaluation._outputs(methods[:1], reference[..., :48, :64], "simple", 0))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"models": ["tiny@0"]}, "asks for '0' steps"),
        ({"models": ["tiny@x"]}, "asks for 'x' steps"),
        ({"models": ["huge"]}, "model 'huge' is neither"),
        ({"presets": ["awful"]}, "no preset 'awful'"),
        ({"footage": "nowhere.mp4"}, "nowhere.mp4"),
    ],
)
def test_what_is_not_there_is_named(given, message):
    with pytest.raises(InputError, match=message):
        evaluate(**given)


def test_the_bundled_vae_reconstructs_as_its_record_says():
    record = json.loads((BUNDLED / "vae_small.json").read_text())
    assert vae_validation(load_vae("small")) == pytest.approx(record["validation"], abs=0.02)


def test_bundled_weights_are_small():
    assert sum(path.stat().st_size for path in BUNDLED.glob("*.safetensors")) <= 16_000_000


@pytest.mark.parametrize("path", sorted(BUNDLED.glob("*.safetensors")), ids=lambda path: path.stem)
def test_how_each_bundled_file_came_about_stands_beside_it(path):
    record = json.loads(path.with_suffix(".json").read_text())
    assert record["command"].startswith("seedvr2-lab train ") and record["seconds"] > 60 and record["machine"]
    assert {"seed", "steps", "learning_rate"} <= set(record["settings"]) and record["validation"]
    rows = [json.loads(line) for line in path.with_suffix(".log.jsonl").read_text().splitlines()]
    assert rows[-1]["step"] == record.get("last halving", record["settings"])["steps"]


def test_what_is_added_to_the_mean_costs_its_energy_and_leads_nowhere():
    """Two originals are equally likely; whatever a restorer adds to their mean, it cannot know which of them it is."""
    random = torch.Generator().manual_seed(0)
    mean, detail = (torch.rand(3, 1, 256, 256, generator=random) / 2 + 0.25 for _ in range(2))
    side = torch.randint(0, 2, mean.shape, generator=random) * 2.0 - 1
    original, added = mean + 0.1 * side, 0.1 * (detail - 0.5)
    assert alignment(mean, mean + added, original) == pytest.approx(0, abs=0.01)
    assert alignment(mean, mean + 0.1 * side, original) == pytest.approx(1)
    assert alignment(mean, mean - 0.1 * side, original) == pytest.approx(-1)
    control = noise_instead(mean, mean + added, seed=0)
    errors = [float((clip - original).square().mean()) for clip in (mean, mean + added, control)]
    energy = float(added.square().mean())
    assert errors[1] == pytest.approx(errors[0] + energy, rel=0.01)
    assert errors[2] == pytest.approx(errors[0] + energy, rel=0.01)
    assert float((control - mean).std()) == pytest.approx(float(added.std()), rel=0.01)
