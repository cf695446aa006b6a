"""The real-world recipe: blur, resize, noise, JPEG and video encoding, then all of it once more, drawn at random.

The second-order degradation that RealBasicVSR (Chan et al. 2022) made of Real-ESRGAN's (Wang et al. 2021) for video,
and on which Upscale-A-Video and SeedVR2 train. A recipe draws all parameters from one generator and turns them into
stages, each a function from frames to frames. Strengths drift slowly over a clip; kinds (kernel, filter, noise, codec)
and sizes stay. Our choices, where the original differs:

- Drift is no random walk: a parameter moves at a constant pace and turns back at the ends of its range. So it depends
  on the frame's number alone, and a clip and a stream of frames get the same values.
- Encoders get a quality instead of a bitrate, which would mean something else at every size and length.
- One of three encoders is H.265; the original names its H.264 encoder twice.
"""

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from seedvr2_lab.media import kernels
from seedvr2_lab.media.compression import VIDEO_CODECS, jpeg, video

Frames = Iterable[Tensor]  # (3, H, W) each, in order
Range = tuple[float, float]  # from the mild end to the severe one
Kind = TypeVar("Kind", bound=Hashable)

KERNELS = {  # shape, and whether it is the same in all directions: probability
    ("Gaussian", True): 0.405,
    ("Gaussian", False): 0.225,
    ("generalised", True): 0.108,
    ("generalised", False): 0.027,
    ("plateau", True): 0.108,
    ("plateau", False): 0.027,
    ("sinc", True): 0.1,
}
BETA = {"Gaussian": (1.0, 1.0), "generalised": (0.5, 4.0), "plateau": (1.0, 2.0)}
CUTOFF = (math.pi, math.pi / 3)  # of a sinc, radians a pixel
FILTERS = dict.fromkeys(("area", "bilinear", "bicubic"), 1 / 3)  # without antialiasing, as careless software has them
CODECS = dict.fromkeys(VIDEO_CODECS, 1 / 3)
GREY = 0.4  # probability of noise that is equal in the three colours
LUMA = (0.299, 0.587, 0.114)
LEVELS = 256  # photons at white for Poisson noise of strength 1
WHOLE = (0.0, 1.0)


class Stage(NamedTuple):
    """One step of a recipe with its parameters drawn."""

    name: str  # such as "blur 1"
    detail: str  # what was drawn, at the first frame
    apply: Callable[[Frames], Frames]  # as many frames, in the same order; each call starts at frame 0


class Drift(NamedTuple):
    """A parameter by frame: from `start` at a constant pace, back and forth between the ends of its range."""

    mild: float
    severe: float
    start: float  # 0 at the mild end, 1 at the severe one
    pace: float  # of the range, a frame

    def __call__(self, frame: int) -> float:
        place = (self.start + self.pace * frame) % 2
        return self.mild + (self.severe - self.mild) * min(place, 2 - place)


@dataclass(frozen=True)
class Order:
    """One pass of the recipe. Ranges run from the mild end to the severe one."""

    blur: float = 1.0  # probability
    sigma: Range = (0.2, 3.0)  # standard deviation of a kernel along an axis, pixels
    resize: tuple[float, float, float] = (0.2, 0.7, 0.1)  # probabilities to enlarge, to shrink, to keep the size
    enlarge: float = 1.5  # the largest factor
    shrink: float = 0.15  # the smallest factor
    gaussian: Range = (1.0, 30.0)  # standard deviation of noise, of 255
    poisson: Range = (0.05, 3.0)  # strength of noise: its variance is strength^2 * brightness / 256
    jpeg: Range = (95.0, 30.0)  # quality
    video: float = 1.0  # probability


FIRST = Order()
SECOND = Order(
    blur=0.8,
    sigma=(0.2, 1.5),
    resize=(0.3, 0.4, 0.3),
    enlarge=1.2,
    shrink=0.3,
    gaussian=(1.0, 25.0),
    poisson=(0.05, 2.5),
)


@dataclass(frozen=True)
class Recipe:
    """A degradation of several orders; the defaults are the original's.

    A clip is brought to its final size by a random filter, then ringing is added, before or after the last encoder.
    """

    scale: int = 4  # height and width of the high-quality clip over those of the low-quality one
    orders: tuple[Order, ...] = (FIRST, SECOND)
    ringing: float = 0.8  # probability of a sinc at the end
    severity: Range = WHOLE  # the part of every range that is drawn from: 0 is its mild end, 1 its severe end
    drift: float = 0.01  # the fastest pace of a parameter, of its range a frame; 0 keeps all constant

    def stages(self, shape_THW: tuple[int, int, int], generator: torch.Generator) -> list[Stage]:
        """Draw all parameters for a clip whose height and width are multiples of the scale.

        The stages do not depend on the number of frames.
        """
        draw = _Draw(generator, self.severity, self.drift)
        size, stages = shape_THW[1:], []
        for number, order in enumerate(self.orders, 1):
            if draw.happens(order.blur):
                stages.append(_blur(f"blur {number}", draw, KERNELS, order.sigma))
            # The first pass makes up for the scale: at any scale it may end a little below the final size.
            shrink = min(1.0, order.shrink * 4 / self.scale) if number == 1 else order.shrink
            factor = _factor(draw, order, shrink)
            size = tuple(max(1, round(side * factor)) for side in size)
            stages.append(_resize(f"resize {number}", draw, size))
            stages.append(_noise(f"noise {number}", draw, order))
            stages.append(_jpeg(f"jpeg {number}", draw, order.jpeg))
            if draw.happens(order.video):
                stages.append(_video(f"video {number}", draw))
        final = [_resize("final size", draw, tuple(side // self.scale for side in shape_THW[1:]))]
        if draw.happens(self.ringing):
            final.append(_blur("ringing", draw, {("sinc", True): 1.0}, FIRST.sigma))
        place = len(stages)
        if stages[-1].name.startswith("video") and draw.happens(0.5):
            place -= 1
        return stages[:place] + final + stages[place:]


RECIPES = {  # light to heavy are thirds of every range of the paper's recipe
    "light": Recipe(severity=(0.0, 1 / 3)),
    "medium": Recipe(severity=(1 / 3, 2 / 3)),
    "heavy": Recipe(severity=(2 / 3, 1.0)),
    "paper": Recipe(),
}


class _Draw:
    """Draws of one recipe, all from one generator."""

    def __init__(self, generator: torch.Generator, severity: Range, drift: float):
        self._generator, self._severity, self._drift = generator, severity, drift

    def number(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=self._generator))

    def happens(self, chance: float) -> bool:
        return self.number(0, 1) < chance

    def choose(self, chances: Mapping[Kind, float]) -> Kind:
        weights = torch.tensor(list(chances.values()))
        return list(chances)[int(torch.multinomial(weights, 1, generator=self._generator))]

    def severe(self, mild: float, severe: float) -> float:
        """A value in the part of a range that the severity asks for."""
        return mild + (severe - mild) * self.number(*self._severity)

    def drift(self, mild: float, severe: float, part: Range | None = None) -> Drift:
        ends = (mild + (severe - mild) * place for place in (part or self._severity))
        return Drift(*ends, self.number(0, 1), self.number(-self._drift, self._drift))

    def seed(self) -> int:
        return int(torch.randint(2**62, (), generator=self._generator))


def each(function: Callable[[Tensor, int], Tensor]) -> Callable[[Frames], Frames]:
    """Frame by frame, with the frame's number."""
    return lambda frames: (function(frame, t) for t, frame in enumerate(frames))


def _blur(name: str, draw: _Draw, kinds: Mapping[tuple[str, bool], float], sigma: Range) -> Stage:
    shape, isotropic = draw.choose(kinds)
    size = 7 + 2 * int(draw.number(0, 8))
    if shape == "sinc":
        cutoff = draw.drift(*CUTOFF)
        detail = f"sinc, {size} px, cutoff {cutoff(0) / math.pi:.2f} π"
        return Stage(name, detail, each(lambda frame, t: kernels.blur(frame, kernels.sinc(size, cutoff(t)))))
    along = draw.drift(*sigma)
    across = along if isotropic else draw.drift(*sigma)
    angle, beta = draw.drift(-math.pi, math.pi, WHOLE), draw.drift(*BETA[shape], WHOLE)
    kernel = kernels.plateau if shape == "plateau" else kernels.gaussian
    width = f"{along(0):.1f}" if isotropic else f"{along(0):.1f} × {across(0):.1f}"
    return Stage(
        name,
        f"{shape}, {size} px, σ {width}",
        each(lambda frame, t: kernels.blur(frame, kernel(size, (along(t), across(t)), angle(t), beta(t)))),
    )


def _factor(draw: _Draw, order: Order, shrink: float) -> float:
    way = draw.choose(dict(zip(("enlarge", "shrink", "keep"), order.resize, strict=True)))
    if way == "keep":
        return 1.0
    return draw.number(1, order.enlarge) if way == "enlarge" else draw.severe(1, shrink)


def _resize(name: str, draw: _Draw, size: tuple[int, int]) -> Stage:
    mode = draw.choose(FILTERS)
    aligned = {} if mode == "area" else {"align_corners": False}
    return Stage(
        name,
        f"{mode}, {size[0]}×{size[1]}",
        each(lambda frame, t: F.interpolate(frame[None], size, mode=mode, **aligned)[0]),
    )


def _noise(name: str, draw: _Draw, order: Order) -> Stage:
    is_poisson, is_grey, seed = draw.happens(0.5), draw.happens(GREY), draw.seed()
    strength = draw.drift(*(order.poisson if is_poisson else order.gaussian))
    kind = poisson_noise if is_poisson else gaussian_noise

    def add(frames: Frames) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        for t, frame in enumerate(frames):
            yield (frame + kind(frame, strength(t), is_grey, generator)).clamp(0, 1)

    size = f"strength {strength(0):.1f}" if is_poisson else f"σ {strength(0):.0f} of 255"
    return Stage(name, f"{'grey' if is_grey else 'colour'} {'Poisson' if is_poisson else 'Gaussian'}, {size}", add)


def gaussian_noise(frame_CHW: Tensor, sigma: float, is_grey: bool, generator: torch.Generator) -> Tensor:
    """Noise of that standard deviation, of 255, with the frame's shape or equal in all colours (1, H, W)."""
    shape = (1 if is_grey else frame_CHW.shape[0], *frame_CHW.shape[1:])
    return sigma / 255 * torch.randn(shape, generator=generator)


def poisson_noise(frame_CHW: Tensor, strength: float, is_grey: bool, generator: torch.Generator) -> Tensor:
    """What counting photons adds to a frame, times `strength`: its variance grows with brightness."""
    light = frame_CHW.clamp(0, 1)
    if is_grey:
        light = torch.einsum("chw,c->hw", light, torch.tensor(LUMA))[None]
    return strength * (torch.poisson(light * LEVELS, generator=generator) / LEVELS - light)


def _jpeg(name: str, draw: _Draw, quality: Range) -> Stage:
    drift = draw.drift(*quality)
    return Stage(name, f"quality {drift(0):.0f}", each(lambda frame, t: jpeg(frame, round(drift(t)))))


def _video(name: str, draw: _Draw) -> Stage:
    codec = draw.choose(CODECS)
    quality = VIDEO_CODECS[codec].quality(draw.severe(0, 1))
    unit = "quantiser" if codec == "mpeg4" else "CRF"
    return Stage(name, f"{codec}, {unit} {quality}", lambda frames: video(frames, codec, quality))
