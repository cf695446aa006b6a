"""The evaluation of models, and that the bundled ones are what the README says."""

import json
import re
from itertools import product
from pathlib import Path

import pytest
import torch

from seedvr2_lab.console import InputError
from seedvr2_lab.lab import evaluation
from seedvr2_lab.lab.evaluation import BICUBIC, CEILING, CONTROL, as_markdown, evaluate
from seedvr2_lab.media.clips import EVALUATION, load_picture, sample_clips
from seedvr2_lab.media.video_writer import VideoWriter
from seedvr2_lab.model.weights import BUNDLED, load_vae
from seedvr2_lab.training.validation import vae_validation

ROOT = Path(__file__).parents[2]


def figures(text):
    return [float(number) for number in re.findall(r"\d+\.\d+", text)]


def check_readme(preset):
    table = evaluate(presets=[preset])
    readme = (ROOT / "README.md").read_text()
    start = readme.index(f"| `{preset}`: ")
    assert figures(readme[start : readme.index("\n\n", start)]) == pytest.approx(figures(as_markdown(table)), abs=0.02)
    return {(row["source"], row["method"]): row for row in table}


def test_the_bundled_model_beats_bicubic_on_every_picture_as_the_readme_says():
    rows = check_readme("simple")
    for picture, metric in product(EVALUATION, ("psnr", "ssim")):
        assert rows[picture, BICUBIC][metric] < rows[picture, "tiny"][metric] < rows[picture, CEILING][metric]


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["light", "paper"])
def test_the_other_figures_of_the_readme(preset):
    check_readme(preset)


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
    assert (outputs[CONTROL] - black).std() == pytest.approx(0.05, rel=0.1)
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
    assert rows[-1]["step"] == record["settings"]["steps"]
