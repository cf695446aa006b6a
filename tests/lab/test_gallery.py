"""Crops of an evaluation side by side."""

import pytest
import torch
from PIL import Image

from seedvr2_lab.cli import main
from seedvr2_lab.console import InputError
from seedvr2_lab.lab import evaluation
from seedvr2_lab.lab.evaluation import BICUBIC, CEILING, evaluate
from seedvr2_lab.lab.gallery import ORIGINAL, SIZE, Gallery
from seedvr2_lab.media.clips import load_picture


def clip(height=80, width=200):
    """Grey, but for a busy corner at the bottom right of its middle frame."""
    frames = torch.full((3, 5, height, width), 0.5)
    frames[:, 2, -24:, -24:] = torch.rand(3, 24, 24, generator=torch.Generator().manual_seed(0))
    return frames


def test_all_methods_are_cut_where_the_original_has_most_contrast():
    gallery, original = Gallery(), clip()
    gallery("a, light", ORIGINAL, original)
    gallery("a, light", "other", original + 1)
    crops = gallery.crops["a, light"]
    assert crops[ORIGINAL].shape == (*SIZE, 3) and crops[ORIGINAL].std() > 0.05
    torch.testing.assert_close(crops["other"], crops[ORIGINAL] + 1)


@pytest.mark.parametrize("size", [(64, 96), (30, 40), (65, 33)])
def test_small_pictures_are_shown_whole_as_far_as_they_go(size):
    gallery = Gallery()
    gallery("small", ORIGINAL, clip(*size))
    assert gallery.crops["small"][ORIGINAL].shape[:2] == tuple(map(min, size, SIZE))


def test_the_figure_names_cases_and_methods_and_ends_with_the_original(monkeypatch):
    monkeypatch.setattr(evaluation, "load_picture", lambda name: load_picture(name)[:, 40:90, 40:106])
    gallery = Gallery()
    evaluate(("tiny",), ("simple",), seeds=(0, 1), keep=gallery)
    axes = gallery.figure().axes
    assert [here.get_title(loc="left") for here in axes[:3]] == [
        f"{name}, simple" for name in ("chelsea", "china", "flower")
    ]
    assert [here.get_ylabel() for here in axes[::3]] == [BICUBIC, "tiny", CEILING, ORIGINAL]


def test_the_command_line_writes_the_picture(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(evaluation, "load_picture", lambda name: load_picture(name)[:, 40:90, 40:106])
    assert main(["evaluate", "--picture", str(tmp_path / "crops.png")]) == 0
    assert Image.open(tmp_path / "crops.png").width > 500 and "| tiny |" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["nowhere/crops.png", "crops.unknown"])
def test_a_picture_that_cannot_be_written_is_named(tmp_path, name):
    gallery = Gallery()
    gallery("a", ORIGINAL, clip())
    with pytest.raises(InputError, match=r"cannot write the picture .*crops"):
        gallery.save(tmp_path / name)
