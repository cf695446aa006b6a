"""The published weights: which files they are, how they are fetched and checked, and where they then lie.

All lie in one folder under their published names: `~/.cache/seedvr2-lab`, or wherever SEEDVR2_LAB_WEIGHTS says. A
file appears there only when it is complete and its checksum is right. Nothing is fetched unasked.
"""

import hashlib
import os
import re
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from seedvr2_lab.console import InputError

FOLDER = "SEEDVR2_LAB_WEIGHTS"
LICENCE = "The SeedVR2 weights are published by ByteDance Seed under the Apache License, Version 2.0."
SHA256 = "[0-9a-f]{64}"
CODE = "ByteDance-Seed/SeedVR"  # the published code's git repository; the texts lie in its root


class HubFile(NamedTuple):
    """A file of a repository on the model hub."""

    repository: str
    name: str


FILES = {
    "3b": HubFile("ByteDance-Seed/SeedVR2-3B", "seedvr2_ema_3b.pth"),
    "7b": HubFile("ByteDance-Seed/SeedVR2-7B", "seedvr2_ema_7b.pth"),
    "vae": HubFile("ByteDance-Seed/SeedVR2-3B", "ema_vae.pth"),  # shared by both
}
TEXTS = {  # sha256 of the text encoder's output for the two fixed prompts, (tokens, 5120) each
    "pos_emb.pt": "fa07a14844314772266b66c3b95deb0027696d8fe7065721263db5176f45d799",
    "neg_emb.pt": "6a43e5800ef2354f1c156d27535834da055cbec8248298b8923492bba2076581",
}


def folder() -> Path:
    return Path(os.environ.get(FOLDER) or "~/.cache/seedvr2-lab").expanduser()


def weight_file(key: str) -> Path:
    """The file of "3b", "7b" or "vae". Raises InputError if it is not there."""
    path = folder() / FILES[key].name
    if not path.is_file():
        raise InputError(f"{path.name} is not in {folder()}: get it with `seedvr2-lab weights {key}`, or set {FOLDER}")
    return path


def text_file(name: str = "pos_emb.pt") -> Path:
    """The file of the positive or the negative ("neg_emb.pt", for guidance) text. Raises InputError if it is not
    there or not the published one."""
    path = folder() / name
    if not path.is_file():
        raise InputError(f"{name} is not in {folder()}: copy it from the root of the git repository {CODE} to there")
    _check(path, TEXTS[name])
    return path


def inventory() -> list[tuple[str, str, str]]:
    """(key, file, state) of everything published that this package can use."""
    rows = []
    for key, name in [*((key, file.name) for key, file in FILES.items()), *(("text", name) for name in TEXTS)]:
        path = folder() / name
        if path.is_file() and key == "text" and _sha256(path) != TEXTS[name]:
            state = f"wrong checksum: copy it again from the root of the git repository {CODE}"
        elif path.is_file():
            state = f"present, {path.stat().st_size / 1e6:,.1f} MB"
        elif key == "text":
            purpose = "" if name == "pos_emb.pt" else " (for guidance only)"
            state = f"missing{purpose}: copy it from the root of the git repository {CODE}"
        else:
            state = f"missing: seedvr2-lab weights {key}"
        rows.append((key, name, state))
    return rows


def fetch(key: str, revision: str | None = None, sha256: str | None = None) -> Path:
    """Download a file of `FILES` unless it is there. Nothing is left of a download that fails.

    Args:
        key: "3b", "7b" or "vae".
        revision: branch, tag or commit of the hub's repository; the newest by default.
        sha256: of the file; by default the hub's own record of it.

    Raises:
        InputError: an unknown key, no connection, no such revision, or a file with another checksum.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    check_request(key, sha256)
    file, target = FILES[key], folder() / FILES[key].name
    if target.is_file():
        if revision:
            raise InputError(f"{target} is there, of a revision not known here: remove it to get '{revision}'")
        if sha256:
            _check(target, sha256)
        return target
    with _one_line_errors(file):
        record = get_hf_file_metadata(hf_hub_url(file.repository, file.name, revision=revision))
    recorded = record.etag if re.fullmatch(SHA256, record.etag or "") else None  # small files have a git hash instead
    if not (sha256 or recorded):
        raise InputError(f"the hub has no checksum of {file.name}: give it with --sha256")
    if sha256 and recorded and sha256 != recorded:
        raise InputError(f"{file.name} has the checksum {recorded} on the hub: give that or another revision")
    with _one_line_errors(file):
        target.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=target.parent, prefix=".incoming-") as incoming:
            # By the commit just asked about, so that file and checksum belong together.
            path = Path(hf_hub_download(file.repository, file.name, revision=record.commit_hash, local_dir=incoming))
            _check(path, sha256 or recorded)
            path.replace(target)
    return target


def check_request(key: str, sha256: str | None) -> None:
    """Raises InputError for what `fetch` could not even begin."""
    if key not in FILES:
        raise InputError(f"there are no published weights '{key}': choose one of {', '.join(FILES)}")
    if sha256 and not re.fullmatch(SHA256, sha256):
        raise InputError(f"'{sha256}' is no sha256: give its 64 hexadecimal digits in lower case")


@contextmanager
def _one_line_errors(file: HubFile):
    from huggingface_hub.errors import HFValidationError, HTTPError  # HTTPError: of the client library below it
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # else every retry prints two lines
    try:
        yield
    except (HTTPError, HFValidationError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{file.name} cannot be downloaded from {file.repository} ({reason}): check the connection, "
            f"or put the file into {folder()} yourself"
        ) from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(path: Path, sha256: str) -> None:
    if (digest := _sha256(path)) != sha256:
        raise InputError(f"{path.name} has the wrong checksum ({digest[:12]}, not {sha256[:12]}): get the file again")
