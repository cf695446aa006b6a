"""Files of tensors: what is refused, and that loading takes the memory of the weights once."""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from seedvr2_lab.console import InputError
from seedvr2_lab.model import tensor_file
from seedvr2_lab.model.tensor_file import fill, mapped


class Small(nn.Module):
    """Two parameters and a buffer."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.register_buffer("freqs", torch.linspace(1, 400, 7))


def save(path, tensors):
    torch.save(tensors, path) if path.suffix == ".pth" else save_file(tensors, path)


@pytest.fixture(params=["x.pth", "x.safetensors"])
def path(request, tmp_path):
    return tmp_path / request.param


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16, torch.float16])
def test_a_module_is_filled_in_the_dtype_asked_for(path, stored, dtype, monkeypatch):
    monkeypatch.setattr(tensor_file, "PIECE", 8)  # one tensor at a time
    state = Small().to(stored).state_dict()
    save(path, state)
    module = fill(Small(), path, dtype)
    assert not module.training and not any(p.requires_grad for p in module.parameters())
    for name, value in module.state_dict().items():
        wanted = torch.float32 if dtype and name == "freqs" else dtype or stored
        torch.testing.assert_close(value, state[name].to(wanted), rtol=0, atol=0)
    assert module.layer(torch.ones(1, 3, dtype=dtype or stored)).isfinite().all()


def test_names_and_shapes_that_do_not_fit_are_counted_in_one_line(path):
    state = Small().state_dict()
    save(path, {f"more.{i}": torch.zeros(1) for i in range(5)} | {"layer.weight": torch.zeros(3, 2)})
    with pytest.raises(InputError) as error:
        fill(Small(), path)
    line = str(error.value)
    assert "\n" not in line and str(path) in line
    assert "2 missing (freqs, layer.bias)" in line
    assert "5 unexpected (more.0, more.1, more.2, ...)" in line
    assert "1 of another shape (layer.weight [3, 2] instead of [2, 3])" in line
    save(path, state | {"layer.bias": torch.zeros(2, dtype=torch.int8)})
    with pytest.raises(InputError, match=r"1 not of floating point \(layer.bias torch.int8\)"):
        fill(Small(), path)
    save(path, state | {"more": torch.zeros(1)})
    assert torch.equal(fill(Small(), path, ignore=("more",)).freqs, state["freqs"])


HARM = Path(tempfile.gettempdir()) / f"harm-{os.getpid()}"


class Harm:
    def __reduce__(self):
        return os.system, (f"touch {HARM}",)


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])


def damage(path):
    body = path.read_bytes()
    path.write_bytes(bytes([*body[:8], *(255 - byte for byte in body[8:60]), *body[60:]]))


BAD = {
    "missing": (lambda path: None, "is damaged"),
    "folder": (lambda path: path.mkdir(), "is damaged"),
    "text": (lambda path: path.write_text("these are no weights\n"), "no safetensors file or state dict"),
    "empty": (lambda path: path.touch(), "no safetensors file or state dict"),
    "cut short": (lambda path: (save(path, Small().state_dict()), cut(path)), "is damaged"),
    "flipped bytes": (lambda path: (save(path, Small().state_dict()), damage(path)), "is damaged"),
    "other zip": (lambda path: zipfile.ZipFile(path, "w").writestr("a.txt", "text"), "is damaged"),
}
BAD_PICKLES = {
    "harm": ({"layer.weight": Harm()}, "could run as code"),
    "whole module": (Small(), "could run as code"),
    "tensor": (torch.zeros(3), "no plain state dict"),
    "nested": ({"state_dict": Small().state_dict()}, "no plain state dict"),
    "numbers": ({"step": 3}, "no plain state dict"),
    "numbered": ({0: torch.zeros(3)}, "no plain state dict"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_weight_file_is_refused_in_one_line(path, case):
    make, word = BAD[case]
    make(path)
    with pytest.raises(InputError, match=word) as error:
        mapped(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize("case", BAD_PICKLES)
def test_what_is_more_than_tensors_is_refused_in_one_line_and_never_run(tmp_path, case):
    content, word = BAD_PICKLES[case]
    path = tmp_path / "x.pth"
    torch.save(content, path)
    with pytest.raises(InputError, match=word) as error:
        mapped(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)
    assert not HARM.exists()


MEASURE = """
import re, sys
import torch
from pathlib import Path
from torch import nn
from seedvr2_lab.model import tensor_file
from seedvr2_lab.model.tensor_file import empty, fill

def status(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

path, tensor_file.PIECE = Path(sys.argv[1]), 2**25
for dtype in (torch.float32, torch.bfloat16):
    torch.zeros(1).to(dtype).sum()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = status("VmRSS")
    module = fill(empty(lambda: nn.Sequential(*(nn.Linear(1600, 1600) for _ in range(20)))), path, dtype)
    loaded = status("VmHWM") - before
    total = sum(float(parameter.sum()) for parameter in module.parameters())  # every byte is used
    print(loaded / path.stat().st_size, (status("VmHWM") - before) / path.stat().st_size, total)
    del module
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is read from Linux's /proc")
def test_loading_takes_the_memory_of_the_weights_once(path):
    """205 MB of float32: as they are they stay in the file until used; converted, half of them and a piece."""
    tensors = nn.Sequential(*(nn.Linear(1600, 1600) for _ in range(20))).state_dict()
    save(path, tensors)
    done = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True)
    path.unlink()  # pytest would keep it for three runs
    for line, dtype, (most_loading, most_using) in zip(
        done.stdout.splitlines(), (torch.float32, torch.bfloat16), ((0.1, 1.1), (0.75, 0.75)), strict=True
    ):
        loading, using, total = map(float, line.split())
        print(dtype, loading, using)
        assert total == pytest.approx(sum(float(value.to(dtype).sum()) for value in tensors.values()))
        assert loading < most_loading and using < most_using


def test_old_names_of_attention_are_understood(path):
    save(path, {f"mid.attentions.0.{part}.bias": torch.zeros(1) for part in ("query", "key", "value", "proj_attn")})
    assert {name.removeprefix("mid.attentions.0.") for name in mapped(path)[1]} == {
        "to_q.bias", "to_k.bias", "to_v.bias", "to_out.0.bias",
    }  # fmt: skip
