"""What a user decides about a restoration, checked."""

from dataclasses import dataclass
from math import isfinite

from seedvr2_lab.console import InputError
from seedvr2_lab.media.color import FIXES
from seedvr2_lab.media.transform import padded_length

SMALLEST_TILE = 64  # pixels; less would leave the VAE no surroundings to look at
USUAL_OVERLAP = 5  # frames; more did not lower the jump between chunks of real footage


class Cancelled(Exception):
    """The caller's `cancelled` said so. Nothing stands under the final name; what was finished is kept aside."""


@dataclass(frozen=True)
class Settings:
    """How a clip is restored; InputError for values that cannot be.

    Attributes:
        seed: of the noise. What a frame gets depends on the seed and its place in the clip alone.
        steps: calls of the transformer; None: as many as the model is meant for.
        guidance: scale of classifier-free guidance, 1 is none; None: what the model is meant for.
        strength: 1 is the model's result, 0 the plain resize, anything between a mixture.
        color: where the colours come from, a key of `media.color.FIXES`: see there.
        chunk: frames restored at a time; rounded up to what the VAE takes (1 + a multiple of its temporal factor).
        overlap: frames that a chunk shares with the one before, blended; rounded up likewise. None: up to
            `USUAL_OVERLAP`.
        tile: side in pixels of the squares that the VAE works on one by one, blended; None: whole frames. The
            transformer always sees whole frames.
    """

    seed: int = 0
    steps: int | None = None
    guidance: float | None = None
    strength: float = 1.0
    color: str = "wavelet"
    chunk: int = 17
    overlap: int | None = None
    tile: int | None = None

    def __post_init__(self):
        if not 0 <= self.seed < 2**63:
            raise InputError(f"seed {self.seed} is out of range: give a whole number from 0")
        if self.steps is not None and not 1 <= self.steps <= 1000:
            raise InputError(f"steps {self.steps} is out of range: give a whole number from 1 to 1000")
        if self.guidance is not None and not (isfinite(self.guidance) and 0 <= self.guidance <= 100):
            raise InputError(f"guidance {self.guidance:g} is out of range: give a number from 0 to 100, 1 for none")
        if not 0 <= self.strength <= 1:
            raise InputError(f"strength {self.strength:g} is out of range: give a number from 0 to 1")
        if self.color not in FIXES:
            raise InputError(f"color '{self.color}' is unknown: choose from {', '.join(FIXES)}")
        if self.chunk < 1:
            raise InputError(f"chunk {self.chunk} is out of range: give at least 1 frame")
        if self.overlap is not None and self.overlap < 0:
            raise InputError(f"overlap {self.overlap} is out of range: give 0 frames or more")
        if self.tile is not None and self.tile < SMALLEST_TILE:
            raise InputError(f"tile {self.tile} is out of range: give at least {SMALLEST_TILE} pixels")

    def lengths(self, factor: int) -> tuple[int, int]:
        """Frames of a chunk and of its overlap for a VAE of this temporal factor.

        Chunks then begin on whole latent frames, so that noise can belong to a place in the clip.
        """
        chunk = padded_length(self.chunk, factor)
        if self.overlap is None:
            room = min(chunk // 3, USUAL_OVERLAP)
            return chunk, room - (room - 1) % factor if room else 0
        overlap = padded_length(self.overlap, factor) if self.overlap else 0
        if overlap > chunk // 2:
            asked = f"{self.overlap}" if overlap == self.overlap else f"{self.overlap} (rounded up to {overlap})"
            raise InputError(f"overlap {asked} is too long for chunks of {chunk} frames: give at most half a chunk")
        return chunk, overlap
