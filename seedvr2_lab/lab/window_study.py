"""The window study: one small restorer trained under several window schemes, then shown pictures of other sizes.

The task is the plainest one in which windows matter: restore one frame in latent space with one call of the
transformer, by regression. An arm is a scheme; per seed all arms start from the same weights and see the same pairs in
the same order, but for those that are trained on crops of several shapes. Sizes are token grids (height, width); a
token is 8x8 pixels.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from math import isnan, nan
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor, nn

from seedvr2_lab import config
from seedvr2_lab.console import InputError
from seedvr2_lab.lab.arms import CHECKOUT, kept
from seedvr2_lab.lab.claims import Claim
from seedvr2_lab.lab.evaluation import vae_round_trip
from seedvr2_lab.media.clips import EVALUATION, camera_clip, load_picture
from seedvr2_lab.media.degrade import Degradation
from seedvr2_lab.metrics import psnr, seam_index, ssim
from seedvr2_lab.model.dit import DiT, DiTConfig
from seedvr2_lab.model.vae import VideoVAE
from seedvr2_lab.model.weights import fixed_text, weights_hash
from seedvr2_lab.model.windows import WindowScheme, partition
from seedvr2_lab.training.loop import TrainConfig, read_log, train
from seedvr2_lab.training.pairs import Pairs, encode_pairs, low_quality
from seedvr2_lab.training.regression import regression_loss, restore_latent

Grid = tuple[int, int]  # tokens along height and width

TOKEN = 8  # pixels
DEGRADATION = Degradation()  # what `low_quality` draws from
TRAINING_GRID = (18, 32)
MIXED_GRIDS = (TRAINING_GRID, (32, 18), (24, 24), (14, 41), (41, 14))  # as many tokens, from landscape to portrait
STRIPS = ((12, 48), (48, 12))  # as many tokens, an aspect ratio that no training crop has
GRIDS = (TRAINING_GRID, (32, 18), *STRIPS, (27, 48), (37, 45), (36, 56), (45, 80))  # as pictures allow
SMOKE_GRIDS = (TRAINING_GRID, (12, 48), (36, 56))
CLIPPED = 0.5  # a window with less of the tokens of the largest one counts as clipped
VIEW = "china", (36, 56), (slice(8, 24), slice(18, 38))  # picture, grid and the tokens of it that figures show

SCHEMES = {
    # SeedVR's 64 latent pixels are 0.71 of the height of a 720p latent and 0.4 of its width, 13 tokens here.
    "fixed": WindowScheme("fixed", size=(30, 13, 13)),
    "adaptive": WindowScheme("adaptive", reference=TRAINING_GRID),
    "unscaled": WindowScheme("unscaled"),
    "global": WindowScheme("global"),
    # Windows that show training fewer borders: one column of them, and none at all.
    "fixed26": WindowScheme("fixed", size=(30, 26, 26)),
    "fixed32": WindowScheme("fixed", size=(30, 32, 32)),
}
MIXED = " mixed"  # ends the name of an arm that is trained on MIXED_GRIDS
SCHEME_NAMES = {scheme: name for name, scheme in SCHEMES.items()}


@dataclass(frozen=True)
class Settings:
    """One arm with one seed, resolved: together with the VAE, all that its numbers depend on."""

    transformer: DiTConfig
    training: TrainConfig
    batch: int
    pool: int  # training pairs, of all training grids together
    training_grids: tuple[Grid, ...]  # successive steps go round them
    grids: tuple[Grid, ...]  # sizes to test
    crops: int  # test crops of each picture and size, drawn by the seed of the training
    test_windows: tuple[WindowScheme, ...]  # schemes to test the trained transformer with
    device: str = "cpu"


def study_settings(arm: str, seed: int, profile: str, test_windows: Sequence[str] = ("own",)) -> Settings:
    """The settings of an arm (a name of SCHEMES, perhaps with MIXED at its end) in a profile; "own" windows for testing
    are those of training."""
    schemes = [_scheme(scheme_name(arm) if name == "own" else name) for name in test_windows]
    work = config.profile(profile)
    training = TrainConfig(
        steps=work.train_steps, learning_rate=4e-3, warmup=work.train_steps // 10, seed=seed, log_every=5, muon=True
    )
    return Settings(
        transformer=config.transformer_config("study", windows=_scheme(scheme_name(arm))),
        training=training,
        batch=work.batch,
        pool=work.pool,
        training_grids=MIXED_GRIDS if arm.endswith(MIXED) else (TRAINING_GRID,),
        grids=SMOKE_GRIDS if profile == "smoke" else GRIDS,
        crops=work.test_crops,
        test_windows=tuple(dict.fromkeys(schemes)),
        device="cuda" if profile == "gpu" and torch.cuda.is_available() else "cpu",
    )


def scheme_name(arm: str) -> str:
    return arm.removesuffix(MIXED)


def _scheme(name: str) -> WindowScheme:
    if name not in SCHEMES:
        raise InputError(f"there is no window scheme '{name}': choose one of {', '.join(SCHEMES)}")
    return SCHEMES[name]


def run_arm(settings: Settings, vae: VideoVAE, folder: Path | None = None, runs: Path | None = None) -> dict[str, Any]:
    """Train and test an arm, or read what an earlier run found. `folder` and `runs` as in `arms.kept`.

    Returns:
        "losses": [[step, loss], ...] of training; "seconds" it took; "tests": a list of measurements (see `measure`);
        "view": the part VIEW of the picture restored with the first of the test windows, a PNG in base64.
    """

    def compute(checkpoints: Path) -> dict[str, Any]:
        batches = [(pairs, settings.batch) for pairs in training_pairs(vae, settings.pool, settings.training_grids)]
        loss = regression_loss(batches, fixed_text(settings.transformer.dim))
        dit = train(new_transformer(settings), loss, settings.training, checkpoints, settings.device)
        log = read_log(checkpoints / "log.jsonl")
        tests, view = [], ""
        for scheme in settings.test_windows:
            other = DiT(replace(settings.transformer, windows=scheme)).to(settings.device).eval()
            other.load_state_dict(dit.state_dict())
            for case in evaluation_cases(vae, settings.grids, settings.crops, settings.training.seed):
                restored = restore(other, vae, case)
                tests.append({"windows": SCHEME_NAMES[scheme], **measure(restored, case, scheme)})
                if not view and (case.picture, case.grid, case.crop) == (*VIEW[:2], 0):
                    view = encode_picture(crop_view(restored))
        losses = [[entry["step"], entry["loss"]] for entry in log]
        return {"losses": losses, "seconds": log[-1]["seconds"], "view": view, "tests": tests}

    key = {"study": "windows", "arm": settings, "degradation": DEGRADATION, "clipped": CLIPPED}
    key |= {"vae": weights_hash(vae)}
    return kept(key, compute, folder, runs)


def run_baselines(settings: Settings, vae: VideoVAE, folder: Path | None = None) -> dict[str, list[dict[str, Any]]]:
    """Measurements of what the arms lie between: the "bicubic" input, and the original sent through the "VAE".

    Their seam index is read at the borders of each of the test windows, where neither can have a seam.
    """

    def compute(_: Path) -> dict[str, Any]:
        rows = {"bicubic": [], "VAE": []}
        for case in evaluation_cases(vae, settings.grids, settings.crops, settings.training.seed):
            ceiling = vae_round_trip(vae, case.original)
            for scheme in settings.test_windows:
                for name, picture in (("bicubic", case.bicubic), ("VAE", ceiling)):
                    rows[name].append({"windows": SCHEME_NAMES[scheme], **measure(picture, case, scheme)})
        return rows

    tested = {"grids": settings.grids, "crops": settings.crops, "seed": settings.training.seed}
    tested |= {"windows": settings.test_windows, "degradation": DEGRADATION, "clipped": CLIPPED}
    tested |= {"vae": weights_hash(vae)}
    return kept({"study": "windows, baselines", **tested}, compute, folder)


@lru_cache(maxsize=2)
def training_pairs(vae: VideoVAE, count: int, grids: tuple[Grid, ...] = (TRAINING_GRID,)) -> list[Pairs]:
    """The pools that all arms and seeds draw from, one for each grid; encoded once, kept in `runs`."""
    sizes = [tuple(TOKEN * tokens for tokens in grid) for grid in grids]
    folder = CHECKOUT / "runs" / "pairs"
    return [encode_pairs(vae, count // len(grids), frames=1, size=size, folder=folder) for size in sizes]


def new_transformer(settings: Settings) -> DiT:
    """Fresh weights, the same for every scheme."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.training.seed)
        return DiT(settings.transformer)


class Case(NamedTuple):
    """One test crop; original and bicubic are (3, 1, H, W) in [0, 1]."""

    picture: str
    grid: Grid
    crop: int
    original: Tensor
    bicubic: Tensor
    low: Tensor  # (C, 1, h, w), the latent of bicubic


@lru_cache(maxsize=1)
@torch.no_grad()
def evaluation_cases(vae: VideoVAE, grids: tuple[Grid, ...], crops: int, seed: int) -> tuple[Case, ...]:
    """Crops of the evaluation pictures, for every grid that fits into the picture.

    Each seed is tested on crops of its own: window borders meet edges of the content by chance, and the noise that this
    gives the seam index shall show in the interval over seeds.
    """
    cases = []
    for index, name in enumerate(EVALUATION):
        picture = load_picture(name)
        for grid in grids:
            size = tuple(TOKEN * tokens for tokens in grid)
            if size[0] > picture.shape[1] or size[1] > picture.shape[2]:
                continue
            for crop in range(crops):
                generator = torch.Generator().manual_seed(1_000_003 * seed + 1000 * index + crop)
                original = camera_clip(picture, 1, size, generator)
                bicubic = low_quality(original, generator)
                cases.append(Case(name, grid, crop, original, bicubic, vae.to_latent(bicubic[None])[0]))
    return tuple(cases)


@torch.no_grad()
def restore(dit: nn.Module, vae: VideoVAE, case: Case) -> Tensor:
    """(3, 1, H, W) in [0, 1]."""
    device = next(dit.parameters()).device
    latent = restore_latent(dit, case.low[None].to(device), fixed_text(dit.config.dim).to(device)).cpu()
    return vae.to_clips(latent)[0].clamp(0, 1)


def measure(restored: Tensor, case: Case, scheme: WindowScheme) -> dict[str, Any]:
    """Where a number was read, and the numbers: PSNR in dB, SSIM, the seam index at the scheme's window borders and the
    error where windows of the scheme "fixed" are clipped (see `clipped_error`).

    The index is the mean of the axes that have borders, None if there are none.
    """
    rows, columns = (
        sorted({TOKEN * at for both in parities for at in both}) for parities in borders(case.grid, scheme)
    )
    seams = seam_index(restored, case.original, case.bicubic, (rows, columns), TOKEN)
    seams = [seam for seam in seams if not isnan(seam)]
    return {
        "picture": case.picture,
        "grid": grid_name(case.grid),
        "crop": case.crop,
        "psnr": psnr(restored, case.original),
        "ssim": ssim(restored, case.original),
        "seam": fmean(seams) if seams else None,
        "clipped": clipped_error(restored, case),
    }


def clipped_error(restored: Tensor, case: Case) -> float | None:
    """How much worse a restoration is where the picture's edge clips windows of the scheme "fixed" in regular layers:
    its mean error there over that elsewhere, as a share of the same ratio of the bicubic input. None if no window is
    clipped (see CLIPPED).

    The place is the same for every scheme: at the edge a network knows less, however its windows are cut, and only the
    comparison of schemes says what the windows do.
    """
    windows = partition((1, *case.grid), SCHEMES["fixed"], False)
    tokens = [(rows.stop - rows.start) * (columns.stop - columns.start) for _, rows, columns in windows]
    clipped = torch.zeros(case.grid, dtype=torch.bool)
    for (_, rows, columns), count in zip(windows, tokens, strict=True):
        clipped[rows, columns] = count < CLIPPED * max(tokens)
    if not clipped.any():
        return None
    pixels = clipped.repeat_interleave(TOKEN, 0).repeat_interleave(TOKEN, 1)
    errors = [(picture - case.original).abs().mean((0, 1)) for picture in (restored, case.bicubic)]
    ours, theirs = (float(error[pixels].mean() / error[~pixels].mean()) for error in errors)
    return ours / theirs


def borders(grid: Grid, scheme: WindowScheme) -> tuple[tuple[list[int], list[int]], tuple[list[int], list[int]]]:
    """Tokens that begin a window: of rows and of columns, each for the regular and for the shifted layers."""
    parities = [partition((1, *grid), scheme, shifted) for shifted in (False, True)]
    return tuple(
        tuple(sorted({window[axis].start for window in windows} - {0}) for windows in parities) for axis in (1, 2)
    )


def grid_name(grid: Grid) -> str:
    return f"{grid[0]}x{grid[1]}"


def score(rows: list[dict[str, Any]], metric: str, grids: Sequence[str] | None = None) -> float:
    """The mean of a number of `measure` over measurements, of these grids only if given; nan if there are none."""
    values = [row[metric] for row in rows if (grids is None or row["grid"] in grids) and row[metric] is not None]
    return fmean(values) if values else nan


def difference(claim: Claim, runs: Mapping[str, Sequence[dict[str, Any]]]) -> list[float]:
    """What a claim of notebook 10 compares, its left arm - its right one: one number for each seed.

    Args:
        runs: by arm, what `run_arm` returned for each of the seeds; arms that are compared with the windows of another
            were tested with those, too.
    """
    sizes = list(dict.fromkeys(row["grid"] for row in runs[claim.left][0]["tests"]))
    strips, shapes = (list(map(grid_name, grids)) for grids in (STRIPS, MIXED_GRIDS))
    where = {
        "odd ratios": strips,
        "mixed shapes": [size for size in sizes if size not in shapes],
        **dict.fromkeys(("borders rarely seen", "borders never seen"), sizes),
    }.get(claim.id, [size for size in sizes if size != grid_name(TRAINING_GRID)])

    def per_seed(arm: str) -> list[float]:
        windows = claim.right if claim.id.startswith("borders") else scheme_name(arm)
        tests = [[row for row in run["tests"] if row["windows"] == windows] for run in runs[arm]]
        return [score(rows, claim.meter.removesuffix(" of strips"), where) for rows in tests]

    return [left - right for left, right in zip(per_seed(claim.left), per_seed(claim.right), strict=True)]


def view_case(vae: VideoVAE, settings: Settings) -> Case:
    """The test crop that VIEW is a part of."""
    cases = evaluation_cases(vae, settings.grids, settings.crops, settings.training.seed)
    return next(case for case in cases if (case.picture, case.grid, case.crop) == (*VIEW[:2], 0))


def view_borders(scheme: WindowScheme) -> tuple[tuple[list[int], list[int]], tuple[list[int], list[int]]]:
    """`borders` inside the part VIEW, in pixels of it."""
    return tuple(
        tuple([TOKEN * (at - cut.start) for at in parity if cut.start < at < cut.stop] for parity in axis)
        for axis, cut in zip(borders(VIEW[1], scheme), VIEW[2], strict=True)
    )


def crop_view(picture: Tensor) -> Tensor:
    """The part VIEW of a picture (3, 1, H, W)."""
    return picture[(..., *(slice(TOKEN * cut.start, TOKEN * cut.stop) for cut in VIEW[2]))]


def encode_picture(picture: Tensor) -> str:
    """(3, 1, H, W) in [0, 1] as PNG, 8 bits, in base64."""
    file = io.BytesIO()
    Image.fromarray(rearrange(picture * 255, "C 1 H W -> H W C").round().byte().numpy()).save(
        file, "PNG", optimize=True
    )
    return base64.b64encode(file.getvalue()).decode()


def decode_picture(text: str) -> np.ndarray:
    """(H, W, 3) in [0, 1], of any format in base64."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) / 255
