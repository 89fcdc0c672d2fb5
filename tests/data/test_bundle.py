"""Bundles fetched from a file:// URL or a local server: once, whole or not at all, never outside of their folder."""

import threading
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from pynanochat.data.bundle import fetch_bundle
from pynanochat.errors import DataError


def archive(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path.as_uri()


def test_it_is_fetched_once(tmp_path):
    url = archive(tmp_path / "one.zip", **{"a/b.txt": "hello", "core.yaml": "x", "__MACOSX/a": "junk"})
    folder = fetch_bundle(url, cache_dir=tmp_path / "cache")
    assert {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()} == {"a/b.txt", "core.yaml"}
    assert (folder / "a/b.txt").read_text() == "hello"
    (tmp_path / "one.zip").unlink()
    assert fetch_bundle(url, cache_dir=tmp_path / "cache") == folder


@pytest.mark.parametrize("name", ["../evil.txt", "/evil.txt", "a/../../evil.txt", "a\\..\\evil.txt"])
def test_names_that_lead_out_are_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "bad.zip", "w") as file:
        file.writestr("fine.txt", "fine")
        file.writestr(name, "evil")
    with pytest.raises(DataError, match=r"bad\.zip: no proper zip .*leads out.*; give a folder instead"):
        fetch_bundle((tmp_path / "bad.zip").as_uri(), cache_dir=tmp_path / "cache")
    assert not list(tmp_path.rglob("evil.txt")) and not list(tmp_path.rglob("fine.txt"))


def test_what_is_no_zip_leaves_nothing(tmp_path):
    whole = archive(tmp_path / "cut.zip", **{"a.txt": "x" * 5000})
    (tmp_path / "cut.zip").write_bytes((tmp_path / "cut.zip").read_bytes()[:90])
    for url in (whole, (tmp_path / "none.zip").as_uri()):
        with pytest.raises(DataError, match="use another"):
            fetch_bundle(url, cache_dir=tmp_path / "cache", remedy="use another")
    left = [f for f in (tmp_path / "cache/bundles").iterdir() if f.suffix != ".lock"]
    assert left == []


def test_a_server_that_says_no(tmp_path):
    class No(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(403)

        def log_message(self, *_):
            pass

    server = HTTPServer(("localhost", 0), No)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with pytest.raises(DataError, match=r"out of reach \(Forbidden\)"):
            fetch_bundle(f"http://localhost:{server.server_port}/x.zip", cache_dir=tmp_path)
    finally:
        server.shutdown()
        server.server_close()
