"""Weight files: nothing is fetched unasked, nothing wrong is used, and what is right is used."""

import dataclasses
import hashlib
import os
import socket

import numpy as np
import pytest
import torch
from scipy.io import savemat

from seedvr2_lab import cli
from seedvr2_lab.console import InputError
from seedvr2_lab.metrics import METRICS, Unavailable, fetch_weights, library, measure, weights

NEED_WEIGHTS = [name for name, metric in METRICS.items() if metric.weights]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*_):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    library._metric.cache_clear()


@pytest.fixture
def niqe(tmp_path):
    """A folder with made parameters for NIQE."""
    path = tmp_path / "pyiqa" / weights.NIQE.name
    path.parent.mkdir()
    root = np.random.default_rng(0).normal(size=(36, 36))
    savemat(path, {"mu_prisparam": np.ones((1, 36)), "cov_prisparam": root @ root.T})
    return path


@pytest.mark.parametrize("name", NEED_WEIGHTS)
def test_without_weights_there_is_a_reason_and_no_request(name, photo, tmp_path):
    result = measure(name, photo, photo.flip(-1), tmp_path)
    assert isinstance(result, Unavailable)
    assert name == "dover" or "`seedvr2-lab weights metrics` fetches it" in result.why
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"not weights"])
@pytest.mark.parametrize("name", sorted(set(NEED_WEIGHTS) - {"dover"}))
def test_wrong_files_are_not_used(name, content, photo, tmp_path):
    for file in weights.FILES:
        (tmp_path / file.folder).mkdir(exist_ok=True)
        (tmp_path / file.folder / file.name).write_bytes(content)
    result = measure(name, photo, photo.flip(-1), tmp_path)
    assert "is damaged or another file" in result.why or "cannot be read" in result.why


def test_an_empty_state_dict_with_a_right_hash_is_not_used(tmp_path):
    """pyiqa loads LPIPS and DISTS without asking whether anything is in the file."""
    path = tmp_path / "pyiqa" / weights.LPIPS.name
    path.parent.mkdir()
    torch.save({}, path)
    file = dataclasses.replace(weights.LPIPS, sha256=hashlib.sha256(path.read_bytes()).hexdigest()[:8])
    assert "holds nothing instead of" in weights.problem(file, tmp_path)


def test_pickled_code_is_not_run(tmp_path):
    class Harm:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "harm"),)

    path = tmp_path / "pyiqa" / weights.LPIPS.name
    path.parent.mkdir()
    torch.save({"lin0.model.1.weight": Harm()}, path)
    assert "cannot be read" in weights.problem(dataclasses.replace(weights.LPIPS, sha256=""), tmp_path)
    assert not (tmp_path / "harm").exists()


def test_niqe_runs_on_a_file_that_was_put_there(niqe, photo, noisy):
    clean, worse = (measure("niqe", clip, weights=niqe.parents[1]) for clip in (photo, noisy(photo, 0.3)))
    assert clean > 0 and worse > 0 and clean != worse


def test_a_change_after_the_hash_was_recorded_is_noticed(niqe, monkeypatch, photo):
    root = niqe.parents[1]
    monkeypatch.setattr(weights, "FILES", (weights.NIQE,))
    (line,) = fetch_weights(root)
    assert "already there" in line and hashlib.sha256(niqe.read_bytes()).hexdigest() in line
    savemat(niqe, {"mu_prisparam": np.zeros((1, 36)), "cov_prisparam": np.eye(36)})
    assert "is damaged or another file" in measure("niqe", photo, weights=root).why


def test_fetching_puts_files_where_the_metrics_look(niqe, tmp_path_factory, monkeypatch, photo):
    file = dataclasses.replace(weights.NIQE, address=niqe.as_uri)
    monkeypatch.setattr(weights, "FILES", (file,))
    root = tmp_path_factory.mktemp("root")
    assert "fetched" in fetch_weights(root)[0] and "already there" in fetch_weights(root)[0]
    assert measure("niqe", photo, weights=root) == measure("niqe", photo, weights=niqe.parents[1])


def test_a_fetched_file_with_another_hash_is_refused(niqe, tmp_path_factory, monkeypatch):
    root = tmp_path_factory.mktemp("root")
    file = dataclasses.replace(weights.NIQE, address=niqe.as_uri, sha256="0123abcd")
    monkeypatch.setattr(weights, "FILES", (file,))
    with pytest.raises(InputError, match="0123abcd"):
        fetch_weights(root)
    assert not (root / "pyiqa" / file.name).exists()


def test_a_failure_names_the_files_and_does_not_stop_the_others(niqe, tmp_path_factory, monkeypatch):
    root = tmp_path_factory.mktemp("root")
    gone = dataclasses.replace(weights.LPIPS, address=(niqe.parent / weights.LPIPS.name).as_uri)
    monkeypatch.setattr(weights, "FILES", (gone, dataclasses.replace(weights.NIQE, address=niqe.as_uri)))
    with pytest.raises(InputError, match=r"by hand: .*LPIPS_v0") as error:
        fetch_weights(root)
    assert "\n" not in str(error.value)
    assert (root / "pyiqa" / weights.NIQE.name).is_file()


def test_names_of_files_hold_the_beginning_of_their_hash():
    for file in weights.FILES:
        published = file.name.removesuffix(".pth").rpartition("-")[2] if "-" in file.name else file.sha256
        assert file.sha256[:8] == published[:8]


def test_the_libraries_still_have_these_files_under_these_names():
    for file in weights.FILES:
        address = file.address()
        assert address.endswith(f"/{file.name}")
        if file is weights.RN50:
            assert file.sha256 in address


def test_the_command_fetches_them(niqe, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(weights, "FILES", (dataclasses.replace(weights.NIQE, address=niqe.as_uri),))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert cli.main(["weights", "metrics"]) == 0
    assert str(tmp_path / "pyiqa" / weights.NIQE.name) in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["metrics", "3b"], ["metrics", "--revision", "main"]])
def test_the_command_takes_nothing_beside_metrics(arguments, capsys):
    assert cli.main(["weights", *arguments]) == 2
    assert "metrics stands alone" in capsys.readouterr().err


@pytest.mark.slow
def test_lpips_takes_its_weights_from_the_folder(tmp_path, monkeypatch, photo, noisy):
    """With random weights for both files: what must be in the metric's own file is what the module lacks."""
    from torchvision.models import alexnet

    alexnet_path, own_path = (tmp_path / file.folder / file.name for file in (weights.ALEXNET, weights.LPIPS))
    for path in (alexnet_path, own_path):
        path.parent.mkdir()
    torch.manual_seed(0)
    torch.save(alexnet(weights=None).state_dict(), alexnet_path)
    torch.save({name: torch.rand(shape) for name, shape in weights.LPIPS.shapes.items()}, own_path)
    files = tuple(dataclasses.replace(file, sha256="") for file in (weights.LPIPS, weights.ALEXNET))
    monkeypatch.setitem(library.LIBRARY, "lpips", library.LibraryMetric(files))

    levels = [measure("lpips", noisy(photo, sigma).clamp(0, 1), photo, tmp_path) for sigma in (0, 0.05, 0.2)]
    assert levels[0] == 0 and levels == sorted(levels) and levels[2] > levels[1] > 0
    own = library._metric("lpips", tmp_path).net
    named = {name: tuple(value.shape) for name, value in own.named_parameters() if not name.startswith("net.")}
    assert named == weights.LPIPS.shapes
