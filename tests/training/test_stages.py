"""The stages of the recipe: each takes what the earlier ones left, can be killed at any moment, says what it did."""

import json
import os
import random
import signal
from dataclasses import replace
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.utils.checkpoint import checkpoint

from seedvr2_lab.cli import main
from seedvr2_lab.config import TRANSFORMERS
from seedvr2_lab.console import InputError
from seedvr2_lab.model import dit
from seedvr2_lab.model.weights import load_generator
from seedvr2_lab.training import stages
from seedvr2_lab.training.schedule import LAPTOP, LAST_NOISE, SCHEDULES
from seedvr2_lab.training.stages import Stage, train_stage
from seedvr2_lab.training.validation import Samples

SMALL = dict(dim=32, layers=2, heads=1, mlp_hidden=32, windows=dict(reference=(4, 4)))
ORDER = ("regression", "teacher", "progressive", "consistency", "adversarial", "smaller")
RESULTS = dict(zip(ORDER, ("_regression", "_teacher", "_distilled", "_consistency", "", "_smaller"), strict=True))


def train_small(name, folder, seed=0, **fields):
    """A stage of the `study` size at a width and length that a test can afford; runs in a process of its own, too."""
    torch.set_num_threads(1)  # bits depend on how many
    steps = {"progressive": 4}.get(name, 8)
    config = replace(getattr(SCHEDULES["smoke"], name), steps=steps, warmup=1, log_every=1, checkpoint_every=4)
    configs = {"last_halving": config, name: config}
    pools = dict(pools={1: 4, 5: 2}, large_pools={1: 6, 5: 3})
    SCHEDULES["smoke"] = replace(SCHEDULES["smoke"], crop=32, validation=1, **pools, **configs)
    TRANSFORMERS["study"], stages.TEACHER_STEPS, Samples.COUNT = SMALL, 8, 1
    where = dict(run=folder / name, pools=folder / "pairs", weights=folder / "weights")
    return train_stage(name, size="study", profile="smoke", seed=seed, **where, **fields)


@pytest.fixture(autouse=True)
def restored_tables(monkeypatch):
    """What `train_small` changes in this process."""
    monkeypatch.setitem(SCHEDULES, "smoke", SCHEDULES["smoke"])
    monkeypatch.setitem(TRANSFORMERS, "study", TRANSFORMERS["study"])
    monkeypatch.setattr(stages, "TEACHER_STEPS", stages.TEACHER_STEPS)
    monkeypatch.setattr(Samples, "COUNT", Samples.COUNT)


@pytest.fixture(scope="module", autouse=True)
def restored_threads():
    """Other tests have pictures that more threads made."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """All stages in their order, once."""
    folder = tmp_path_factory.mktemp("recipe")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SCHEDULES, "smoke", SCHEDULES["smoke"])
        patch.setitem(TRANSFORMERS, "study", TRANSFORMERS["study"])
        patch.setattr(stages, "TEACHER_STEPS", stages.TEACHER_STEPS)
        patch.setattr(Samples, "COUNT", Samples.COUNT)
        for name in ORDER:
            teacher = {"teacher": folder / "weights/dit_study_distilled.safetensors"} if name == "smaller" else {}
            train_small(name, folder, **teacher)
    return folder


def moved(folder, one, other):
    files = [load_file(folder / "weights" / f"dit_study{RESULTS[name]}.safetensors") for name in (one, other)]
    return any(not torch.equal(files[0][name], files[1][name]) for name in files[0])


def test_each_stage_leaves_a_model_a_record_a_log_and_samples(trained):
    for name, result in RESULTS.items():
        path = trained / "weights" / f"dit_study{result}.safetensors"
        generator, record = load_generator(path), json.loads(path.with_suffix(".json").read_text())
        assert generator.steps == (8 if name == "teacher" else 1)
        given = f" --teacher {trained}/weights/dit_study_distilled.safetensors" if name == "smaller" else ""
        assert record["command"] == f"seedvr2-lab train {name} --size study --profile smoke --seed 0{given}"
        assert record["seconds"] > 0 and record["validation"]["psnr, restored, 5 frames"] > 5
        rows = [json.loads(line) for line in path.with_suffix(".log.jsonl").read_text().splitlines()]
        assert len(rows) == (12 if name == "progressive" else 8)
        samples = sorted(path.name for path in (trained / name).rglob("samples/*.png"))
        assert len(samples) == (3 if name == "progressive" else 2)


def test_each_stage_starts_from_the_one_before(trained):
    for one, other in (("teacher", "progressive"), ("progressive", "adversarial"), ("teacher", "consistency")):
        assert moved(trained, one, other)
    record = json.loads((trained / "weights/dit_study_distilled.json").read_text())
    assert list(record["steps of the student"]) == ["4", "2", "1"] and record["last halving"]["steps"] == 4
    tried = {float(share): found["psnr, restored, 1 frames"] for share, found in record["share of the noise"].items()}
    assert tuple(tried) == stages.NOISES
    noise_scale = max(tried, key=tried.get) * LAST_NOISE
    for name in ("progressive", "adversarial", "smaller"):  # from the last student on
        assert load_generator(trained / f"weights/dit_study{RESULTS[name]}.safetensors").noise_scale == noise_scale
    record = json.loads((trained / "weights/dit_study_teacher.json").read_text())
    assert set(record["guidance"]) == {str(scale) for scale in stages.GUIDANCE}
    assert load_generator(trained / "weights/dit_study_teacher.safetensors").guidance in stages.GUIDANCE
    record = json.loads((trained / "weights/dit_study.json").read_text())
    assert record["losses"]["r1"] == LAPTOP.penalty and record["losses"]["l1"] == LAPTOP.l1


def test_a_run_goes_on_only_with_the_models_and_data_it_was_begun_with(trained, tmp_path):
    weights = trained / "weights"
    train_small("adversarial", tmp_path, teacher=weights / "dit_study_teacher.safetensors", arm="apt")
    assert [path.name for path in sorted((tmp_path / "weights").glob("*.safetensors"))] == ["dit_study_apt.safetensors"]
    with pytest.raises(InputError, match="adversarial holds a run with other settings, models or data"):
        train_small("adversarial", tmp_path, teacher=weights / "dit_study_consistency.safetensors", arm="apt")


@pytest.mark.parametrize("name", ["teacher", "adversarial"])
def test_blocks_that_run_again_change_nothing_but_the_memory(trained, tmp_path, name, monkeypatch):
    weights, again = trained / "weights", []
    given = {"teacher": weights / "dit_study_teacher.safetensors", "start": weights / "dit_study_distilled.safetensors"}
    monkeypatch.setattr(dit, "checkpoint", lambda *args, **kwargs: again.append(1) or checkpoint(*args, **kwargs))
    made = train_small(name, tmp_path, checkpointing=True, **(given if name == "adversarial" else {}))
    assert again and json.loads(made.with_suffix(".json").read_text())["command"].endswith(" --checkpointing")
    for key, value in final_weights(trained, name).items():
        torch.testing.assert_close(final_weights(tmp_path, name)[key], value, rtol=1e-2, atol=1e-3)


def test_several_batches_make_a_step(trained, tmp_path):
    made = train_small("teacher", tmp_path, accumulate=2)
    record = json.loads(made.with_suffix(".json").read_text())
    assert record["settings"]["accumulate"] == 2 and record["command"].endswith(" --accumulate 2")
    assert losses(tmp_path, "teacher") != losses(trained, "teacher")


def test_one_learns_from_ones_own_folder(trained, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    for k in range(3):
        Image.fromarray((np.indices((40, 48)).sum(0)[..., None] * [1, 2, k + 1] % 256).astype(np.uint8)).save(
            data / f"{k}.png"
        )
    teacher = train_small("teacher", tmp_path / "own", data=str(data))
    assert f"--data {data}" in json.loads(teacher.with_suffix(".json").read_text())["command"]
    assert losses(tmp_path / "own", "teacher") != losses(trained, "teacher")
    os.utime(data / "1.png", (0, 0))
    with pytest.raises(InputError, match="other settings, models or data"):
        train_small("teacher", tmp_path / "own", data=str(data))


def test_a_missing_earlier_stage_is_named(tmp_path):
    with pytest.raises(InputError, match=r"dit_study_teacher\.safetensors is missing: train that stage first"):
        train_small("progressive", tmp_path)


@pytest.mark.parametrize(
    "fields",
    [{"name": "nowhere"}, {"size": "3b"}, {"profile": "night"}, {"arm": "best"}],
    ids=lambda fields: str(fields),
)
def test_unknown_names_are_refused_with_the_known_ones(tmp_path, fields):
    with pytest.raises(InputError, match=f"there is no .*'{next(iter(fields.values()))}': choose one of"):
        Stage(**{"name": "teacher", "run": tmp_path, "weights": tmp_path, "pools": tmp_path} | fields)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["teacher", "--size", "7b"], "there is no size '7b': choose one of tiny, study"),
        (["adversarial", "--arm", "best"], "there is no arm 'best': choose one of apt, rpgan"),
        (["adversarial", "--size", "huge", "--plan"], "there is no size 'huge': choose one of study, tiny, 3b, 7b"),
        (["progressive", "--teacher", "nowhere"], "model 'nowhere' is neither a file nor bundled"),
        (["vae", "--data", "nowhere"], "--data is not for vae, but for regression, teacher, progressive"),
        (["vae", "--checkpointing"], "--checkpointing is not for vae, but for regression, teacher, progressive"),
        (["teacher", "--arm", "apt"], "--arm is not for teacher, but for adversarial: leave it out"),
        (["progressive", "--start", "tiny"], "--start is not for progressive, but for adversarial: leave it out"),
        (["regression", "--teacher", "teacher"], "--teacher is not for regression, but for progressive, consistency"),
        (["teacher", "--accumulate", "0"], "--accumulate 0: give at least 1"),
        (["teacher", "--device", "tpu"], "device 'tpu' is not on this machine: use cpu"),
        (["teacher", "--data", "nowhere"], "nowhere: no such folder; name one with videos or pictures in it"),
        (["progressive", "--teacher", "distilled"], "distilled is a model of one step: give --teacher one of several"),
    ],
)
def test_a_users_mistake_is_answered_in_one_line(arguments, message, tmp_path, capsys):
    assert main(["train", *arguments, "--out", str(tmp_path), "--weights", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


def test_the_command_line_trains_a_stage(tmp_path, capsys):
    where = ["--out", str(tmp_path), "--weights", str(tmp_path / "weights")]
    assert main(["train", "regression", "--size", "study", "--profile", "smoke", *where]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(tmp_path / "weights/dit_study_regression.safetensors")
    assert (tmp_path / "study_smoke_regression/log.jsonl").exists()


def losses(folder, name):
    return [
        {key: value for key, value in json.loads(line).items() if key != "seconds"}
        for line in (folder / name / "log.jsonl").read_text().splitlines()
    ]


def test_the_seed_decides(trained, tmp_path):
    train_small("teacher", tmp_path / "again")
    train_small("teacher", tmp_path / "other", seed=1)
    assert losses(tmp_path / "again", "teacher") == losses(trained, "teacher") != losses(tmp_path / "other", "teacher")


def final_weights(folder, name):
    return load_file(folder / "weights" / f"dit_study{RESULTS[name]}.safetensors")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "teacher" else pytest.mark.slow) for name in ORDER]
)
def test_killed_at_random_moments_it_goes_on_to_the_same_weights(trained, tmp_path, name):
    """SIGKILL: nothing can be tidied up. The whole stage is at stake: encoding, every training, the files."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["seedvr2_lab.training.stages"])
    for path in (trained / "weights").glob("*.safetensors"):  # what the stage needs, but for its own result
        if path.name != f"dit_study{RESULTS[name]}.safetensors":
            (tmp_path / "weights").mkdir(exist_ok=True)
            os.link(path, tmp_path / "weights" / path.name)
    fields = {"teacher": trained / "weights/dit_study_distilled.safetensors"} if name == "smaller" else {}

    def started():
        process = context.Process(target=train_small, args=(name, tmp_path), kwargs=fields)
        process.start()
        return process

    draw, kills = random.Random(0), 0
    for _ in range(5):
        process = started()
        process.join(draw.uniform(0.5, 4.0))
        if process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
            process.join()
            kills += 1
    process = started()
    process.join()
    assert process.exitcode == 0 and kills
    torch.testing.assert_close(final_weights(tmp_path, name), final_weights(trained, name), rtol=0, atol=0)
