"""Every metric of the table by one call: in its range, in its direction, and a reason where there is no number."""

import json
import sys
from math import inf

import pytest
import torch

from seedvr2_lab.console import InputError
from seedvr2_lab.metrics import METRICS, Unavailable, measure
from seedvr2_lab.metrics.library import LIBRARY

OWN = [name for name in METRICS if name not in (*LIBRARY, "dover")]
WITHOUT_WEIGHTS = [name for name, metric in METRICS.items() if not metric.weights]


@pytest.fixture(scope="module")
def clip() -> torch.Tensor:
    """A texture that moves by whole pixels, (3, 3, 176, 192)."""
    from seedvr2_lab.media.clips import load_picture

    picture = load_picture("coffee")
    return torch.stack([picture[:, 100 + t : 276 + t, 200 + 2 * t : 392 + 2 * t] for t in range(3)], 1)


@pytest.mark.parametrize("name", WITHOUT_WEIGHTS)
def test_noise_is_worse_than_little_noise(name, clip, noisy):
    metric = METRICS[name]
    little, much = (measure(name, noisy(clip, sigma).clamp(0, 1), clip) for sigma in (0.01, 0.2))
    assert metric.range[0] <= min(little, much) and max(little, much) <= metric.range[1]
    if metric.better == "nearer 1":
        assert abs(little - 1) < abs(much - 1)
    else:
        assert (little > much) == (metric.better == "higher")


@pytest.mark.parametrize("name", [name for name in WITHOUT_WEIGHTS if METRICS[name].reference and name != "psnr"])
def test_the_original_itself_is_at_the_best_end(name, clip):
    low, high = METRICS[name].range
    best = {"lower": low, "higher": 1 if high == inf else high, "nearer 1": 1}[METRICS[name].better]
    own = 1e-4 if name == "warping" else 1e-5  # whole pixels move, so only the estimated flow is to blame
    assert measure(name, clip, clip) == pytest.approx(best, abs=own)


def test_an_unavailable_result_prints_why_in_any_format():
    result = Unavailable("no weights")
    assert str(result) == f"{result:8.3f}" == "unavailable: no weights"


@pytest.mark.parametrize(
    ("name", "restored", "reference", "why"),
    [
        ("dover", torch.rand(3, 2, 64, 64), None, "no maintained package provides DOVER"),
        ("ssim", torch.rand(3, 2, 64, 64), None, "needs the original"),
        ("psnr", torch.ones(3, 16, 16), torch.ones(3, 16, 16), "a frame equals the original"),
        ("ssim", torch.rand(3, 8, 40), torch.rand(3, 8, 40), "frames are 8x40, ssim needs 11"),
        ("ms_ssim", torch.rand(3, 160, 200), torch.rand(3, 160, 200), "needs 161"),
        ("vif", torch.rand(3, 32, 64), torch.rand(3, 32, 64), "needs 33"),
        ("flicker", torch.rand(3, 32, 32), torch.rand(3, 32, 32), "a single frame"),
        ("warping", torch.rand(3, 32, 32), torch.rand(3, 32, 32), "nothing can be followed"),
        ("texture", torch.rand(3, 32, 32), torch.ones(3, 32, 32), "no texture"),
        ("high_frequency", torch.rand(3, 32, 32), torch.ones(3, 32, 32), "no fine detail"),
        ("vif", torch.rand(3, 2, 64, 64), torch.ones(3, 2, 64, 64), "frame 0 of the reference is flat"),
        ("piqe", torch.zeros(3, 64, 64), None, "frame 0 of the restoration is flat"),
        ("fsim", torch.rand(1, 64, 64), torch.rand(1, 64, 64), "needs red, green and blue"),
        ("ssim", torch.full((3, 32, 32), torch.nan), torch.rand(3, 32, 32), "not finite"),
    ],
)
def test_no_number_without_sense(name, restored, reference, why):
    result = measure(name, restored, reference)
    assert isinstance(result, Unavailable) and why in result.why


def test_a_result_outside_of_its_range_is_no_number(clip, monkeypatch):
    monkeypatch.setitem(METRICS, "gmsd", METRICS["gmsd"]._replace(of=lambda *_: 1.5))
    assert measure("gmsd", clip, clip).why == "the result 1.5 is outside of the range of gmsd, 0 to 1"


def test_values_beyond_white_are_clipped_for_the_library(clip):
    assert measure("gmsd", clip * 3, clip) == measure("gmsd", (clip * 3).clamp(max=1), clip)


def test_a_failure_inside_the_library_is_a_reason(clip, monkeypatch):
    import pyiqa

    def broken(*_, **__):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(pyiqa, "create_metric", broken)
    from seedvr2_lab.metrics import library

    library._metric.cache_clear()
    assert measure("vsi", clip, clip).why == "pyiqa fails with RuntimeError: two lines"


def test_without_pyiqa_our_own_metrics_work(clip, noisy, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyiqa", None)
    from seedvr2_lab.metrics import library

    library._metric.cache_clear()
    results = {name: measure(name, noisy(clip, 0.05).clamp(0, 1), clip) for name in METRICS}
    assert all(isinstance(results[name], float) for name in OWN)
    assert results["gmsd"] == Unavailable("the package pyiqa is not installed")
    json.dumps([results[name] for name in OWN], allow_nan=False)


def test_unknown_names_are_refused(clip):
    with pytest.raises(InputError, match="choose from psnr, ssim"):
        measure("vmaf", clip, clip)
