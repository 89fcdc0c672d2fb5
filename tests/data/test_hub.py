"""Downloads from a server that imitates the Hub."""

import hashlib
import json
import socket
import subprocess
import sys
import time

import pytest

from pynanochat.data import hub, open_source
from pynanochat.errors import DataError

from .fakes import write_parquet
from .hub_server import HubServer


def texts(i):
    return [f"shard {i} document {j}" for j in range(12)]


@pytest.fixture
def parquet(tmp_path):
    def make(i):
        path = tmp_path / "made.parquet"
        write_parquet(path, texts(i))
        return path.read_bytes()

    return make


@pytest.fixture
def server(parquet, monkeypatch):
    names = {f"shard_{i:05d}.parquet": parquet(i) for i in (0, 1, 2, 6542)}
    other = {f"data/train-{i}.parquet": parquet(i) for i in range(3)} | {"data/validation-0.parquet": parquet(9)}
    server = HubServer({"karpathy/climbmix-400b-shuffle": names, "someone/else": other, "someone/one": {"a.md": b"x"}})
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setattr("huggingface_hub.file_download.constants.DOWNLOAD_CHUNK_SIZE", 100)
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_DOWNLOAD_TIMEOUT", 5)
    yield server
    server.close()


def gets(server, file=None):
    return [r for r in server.requests if r[0] == "GET" and file in (None, r[1])]


def test_shards_and_the_pinned_validation_shard(server, tmp_path):
    source = open_source("hub", shards=2, cache_dir=tmp_path)
    assert list(source.texts("train")) == texts(0) + texts(1)
    assert list(source.texts("val")) == texts(6542)
    assert source.name == "hub:karpathy/climbmix-400b-shuffle"
    manifest = json.loads((tmp_path / "hub/karpathy--climbmix-400b-shuffle/manifest.json").read_text())
    assert set(manifest) == {"shard_00000.parquet", "shard_00001.parquet", "shard_06542.parquet"}
    assert source.hash() == open_source("hub:climbmix", shards=2, cache_dir=tmp_path).hash()


def test_what_is_there_is_not_asked_for_again_even_without_a_server(server, tmp_path):
    open_source("hub", shards=2, cache_dir=tmp_path)
    count = len(server.requests)
    open_source("hub", shards=1, cache_dir=tmp_path)
    assert len(server.requests) == count
    open_source("hub", shards=3, cache_dir=tmp_path)
    assert {r[1] for r in server.requests[count:]} == {"shard_00002.parquet"}
    server.close()
    assert len(open_source("hub", shards=3, cache_dir=tmp_path).shards("train")) == 3


def test_a_download_that_breaks_off_is_resumed(server, tmp_path):
    server.faults["shard_00000.parquet"] = ["cut"]
    source = open_source("hub", shards=1, cache_dir=tmp_path)
    assert list(source.texts("train")) == texts(0)
    ranges = [r[2] for r in gets(server, "shard_00000.parquet")]
    assert len(ranges) == 2 and ranges[0] is None and ranges[1].startswith("bytes=")


def test_a_later_run_keeps_what_an_earlier_one_fetched(server, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    monkeypatch.setattr(hub, "WORKERS", 1)
    server.down = {"shard_00001.parquet"}
    with pytest.raises(DataError, match="shard_00001.*out of reach"):
        open_source("hub", shards=2, cache_dir=tmp_path)
    server.down = set()
    count = len(server.requests)
    left_over = tmp_path / "hub/karpathy--climbmix-400b-shuffle/.cache/huggingface/download/killed.incomplete"
    left_over.write_bytes(b"part of a shard")
    assert list(open_source("hub", shards=2, cache_dir=tmp_path).texts("train")) == texts(0) + texts(1)
    assert {r[1] for r in server.requests[count:]} == {"shard_00001.parquet"} and not left_over.exists()


def test_two_processes_download_once(server, tmp_path):
    code = f"from pynanochat.data import open_source; open_source('hub', shards=3, cache_dir={str(tmp_path)!r})"
    both = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert len(gets(server)) == 4


def test_damage_on_the_way_is_noticed_and_fetched_again(server, tmp_path):
    server.faults["shard_00001.parquet"] = ["corrupt"]
    assert list(open_source("hub", shards=2, cache_dir=tmp_path).texts("train")) == texts(0) + texts(1)
    assert len(gets(server, "shard_00001.parquet")) == 2


@pytest.mark.parametrize("fault", ["corrupt", "short"])
def test_damage_that_stays_is_an_error_and_leaves_no_file(server, tmp_path, fault):
    server.faults["shard_00001.parquet"] = [fault] * 20
    with pytest.raises(DataError, match=r"shard_00001.*--data toyworld or --data FOLDER") as caught:
        open_source("hub", shards=2, cache_dir=tmp_path)
    assert "\n" not in str(caught.value)
    folder = tmp_path / "hub/karpathy--climbmix-400b-shuffle"
    assert not (folder / "shard_00001.parquet").exists()
    server.faults.clear()
    assert list(open_source("hub", shards=2, cache_dir=tmp_path).texts("train")) == texts(0) + texts(1)


def test_a_shard_that_was_cut_on_disk_is_fetched_again(server, tmp_path):
    open_source("hub", shards=1, cache_dir=tmp_path)
    path = tmp_path / "hub/karpathy--climbmix-400b-shuffle/shard_00000.parquet"
    path.write_bytes(path.read_bytes()[:-10])
    assert list(open_source("hub", shards=1, cache_dir=tmp_path).texts("train")) == texts(0)


def test_any_repository_by_name(server, tmp_path):
    source = open_source("hub:someone/else", shards=2, cache_dir=tmp_path)
    assert list(source.texts("train")) == texts(0) + texts(1)
    assert list(source.texts("val")) == texts(9)
    server.close()
    assert list(open_source("hub:someone/else", shards=2, cache_dir=tmp_path).texts("val")) == texts(9)


@pytest.mark.parametrize(
    "spec, shards, message",
    [
        ("hub:nobody/nothing", 1, "no such public dataset"),
        ("hub:someone/one", 1, "0 parquet files"),
        ("hub:fineweb", 1, "hub:climbmix, hub:fineweb-edu or hub:OWNER/NAME"),
        ("hub", 4, "no such file"),
        ("hub", 7000, "7000 training shards wanted.* 1 to 6542"),
        ("hub:fineweb-edu", 1, "no such public dataset|no such file"),
    ],
)
def test_what_the_hub_does_not_have(server, tmp_path, spec, shards, message):
    with pytest.raises(DataError, match=message) as caught:
        open_source(spec, shards=shards, cache_dir=tmp_path)
    assert "\n" not in str(caught.value)


def closed_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize("place", ["http://127.0.0.1:{port}", "http://no-such-host.invalid", "silent"])
def test_an_unreachable_hub_is_one_line_within_seconds(monkeypatch, tmp_path, place):
    monkeypatch.setattr(hub, "PATIENCE", 1)
    listener = socket.create_server(("127.0.0.1", 0))  # takes connections and never answers
    silent = f"http://127.0.0.1:{listener.getsockname()[1]}"
    monkeypatch.setenv("HF_ENDPOINT", silent if place == "silent" else place.format(port=closed_port()))
    started = time.monotonic()
    with pytest.raises(DataError, match=r"out of reach.*use --data toyworld or --data FOLDER") as caught:
        open_source("hub", cache_dir=tmp_path)
    assert time.monotonic() - started < 8 and "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
    listener.close()


def test_a_cache_that_cannot_be_written(server, tmp_path):
    (tmp_path / "hub").write_text("a file where the folder should be")
    with pytest.raises(DataError, match="PYNANOCHAT_CACHE"):
        open_source("hub", shards=1, cache_dir=tmp_path)


def test_the_digest_is_the_files_own(server, tmp_path):
    open_source("hub", shards=1, cache_dir=tmp_path)
    folder = tmp_path / "hub/karpathy--climbmix-400b-shuffle"
    manifest = json.loads((folder / "manifest.json").read_text())
    for file, entry in manifest.items():
        assert entry["sha256"] == hashlib.sha256((folder / file).read_bytes()).hexdigest()
