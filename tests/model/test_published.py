"""The published weights from the shell, against a model hub that is a small server on this machine."""

import hashlib
import http.server
import os
import random
import subprocess
import sys
import threading

import pytest
from huggingface_hub import constants

from seedvr2_lab.cli import main
from seedvr2_lab.console import InputError
from seedvr2_lab.model import published

BODY = random.Random(0).randbytes(3_000_000)  # stands for every file of the hub
SHA256 = hashlib.sha256(BODY).hexdigest()
GONE = 0  # in place of a byte to stop at: the hub knows nothing any more
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers like the hub: /<owner>/<repository>/resolve/<revision>/<file> with checksum and commit in the header."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        if self.answer():
            stops = self.server.stops
            self.close_connection = bool(stops)
            self.wfile.write(self.server.body[: stops.pop(0) if stops else None])

    def answer(self):
        paths = [
            f"/{file.repository}/resolve/{revision}/{file.name}"
            for file in published.FILES.values()
            for revision in ("main", "v1", COMMIT)
        ]
        if self.path not in paths or self.server.stops == [GONE]:
            self.send_response(404)
            self.send_header("X-Error-Code", "RevisionNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return False
        self.server.seen.append((self.command, self.path.split("/")[4]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.send_header("X-Linked-Size", str(len(self.server.body)))
        self.send_header("X-Linked-Etag", f'"{self.server.etag}"')
        self.send_header("ETag", '"0000"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        return True

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    server.body, server.etag, server.seen = BODY, SHA256, []
    server.stops = []  # where the next downloads break off
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv(published.FOLDER, str(tmp_path / "weights"))
    return tmp_path / "weights"


@pytest.fixture
def weights(hub, folder, monkeypatch, capsys):
    """weights(*arguments) runs the command and returns (status, lines of output, lines of errors)."""
    endpoint = f"http://127.0.0.1:{hub.server_port}"
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, endpoint)
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)

    def run(*arguments):
        status = main(["weights", *arguments])
        output, errors = capsys.readouterr()
        return status, output.splitlines(), errors.splitlines()

    return run


def test_without_a_name_it_lists_what_is_there_and_where(weights, folder, hub):
    folder.mkdir()
    (folder / "ema_vae.pth").write_bytes(BODY)
    (folder / "neg_emb.pt").write_bytes(BODY)
    status, lines, errors = weights()
    assert status == 0 and not errors and str(folder) in lines[1]
    states = {line.split()[1]: line.split(maxsplit=2)[2] for line in lines[2:]}
    assert states["ema_vae.pth"] == "present, 3.0 MB"
    assert states["neg_emb.pt"].startswith("wrong checksum") and states["pos_emb.pt"].startswith("missing")
    assert states["seedvr2_ema_7b.pth"] == "missing: seedvr2-lab weights 7b"
    assert states.keys() == {"seedvr2_ema_3b.pth", "seedvr2_ema_7b.pth", "ema_vae.pth", "pos_emb.pt", "neg_emb.pt"}
    assert not hub.seen


def test_a_download_shows_the_licence_and_is_not_repeated(weights, folder, hub):
    status, lines, _ = weights("3b", "vae", "--revision", "v1")
    assert status == 0 and "Apache License" in lines[0]
    assert {path.name for path in folder.iterdir()} == {"seedvr2_ema_3b.pth", "ema_vae.pth"}
    assert (folder / "ema_vae.pth").read_bytes() == BODY
    assert [seen for seen in hub.seen if seen[0] == "GET"] == [("GET", COMMIT)] * 2  # the commit of v1, pinned
    requests = len(hub.seen)
    assert weights("3b", "--sha256", SHA256)[0] == 0 and len(hub.seen) == requests
    status, _, errors = weights("3b", "--revision", "main")
    assert status == 2 and len(errors) == 1 and "remove it" in errors[0]
    status, _, errors = weights("3b", "--sha256", "0" * 64)
    assert status == 2 and len(errors) == 1 and "wrong checksum" in errors[0]


def test_a_dropped_connection_is_taken_up_again(weights, folder, hub):
    hub.stops = [2_000_000]
    assert weights("7b")[0] == 0
    assert (folder / "seedvr2_ema_7b.pth").read_bytes() == BODY
    assert [command for command, _ in hub.seen].count("GET") == 2


@pytest.mark.parametrize(
    ("arguments", "change", "word"),
    [
        (["vae"], {"body": BODY[:-1] + b"?"}, "wrong checksum"),
        (["vae", "--sha256", "0" * 64], {}, SHA256),
        (["vae"], {"stops": [2_000_000, GONE]}, "cannot be downloaded"),
        (["vae"], {"etag": "c" * 40}, "--sha256"),
        (["vae", "--revision", "v9"], {}, "ema_vae.pth"),
        (["4b"], {}, "3b, 7b, vae"),
        (["3b", "4b"], {}, "3b, 7b, vae"),
        (["vae", "--sha256", "1234"], {}, "64 hexadecimal"),
        (["3b", "vae", "--sha256", SHA256], {}, "one name"),
    ],
)
def test_what_cannot_be_fetched_is_one_line_status_2_and_leaves_nothing(weights, folder, hub, arguments, change, word):
    for name, value in change.items():
        setattr(hub, name, value)
    status, _, errors = weights(*arguments)
    assert status == 2 and len(errors) == 1 and word in errors[0]
    assert not folder.exists() or not list(folder.iterdir())


@pytest.mark.parametrize("variables", [{"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_HUB_OFFLINE": "1"}])
def test_without_a_connection_it_says_so_at_once_and_leaves_nothing(folder, variables):
    done = subprocess.run(
        [sys.executable, "-m", "seedvr2_lab.cli", "weights", "3b"],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    errors = done.stderr.splitlines()
    assert done.returncode == 2 and len(errors) == 1 and "connection" in errors[0]
    assert not folder.exists()


def test_a_folder_that_cannot_be_made_is_one_line(weights, monkeypatch):
    monkeypatch.setenv(published.FOLDER, "/dev/null/weights")
    status, _, errors = weights("vae")
    assert status == 2 and len(errors) == 1 and "/dev/null" in errors[0]


def test_texts_are_taken_only_with_the_right_checksum(folder, monkeypatch):
    folder.mkdir()
    with pytest.raises(InputError, match=r"pos_emb.pt is not in .* git repository"):
        published.text_file()
    (folder / "pos_emb.pt").write_bytes(BODY)
    with pytest.raises(InputError, match=r"pos_emb.pt has the wrong checksum"):
        published.text_file()
    monkeypatch.setitem(published.TEXTS, "pos_emb.pt", SHA256)
    assert published.text_file() == folder / "pos_emb.pt"
