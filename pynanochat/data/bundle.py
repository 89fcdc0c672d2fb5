"""Fetches a bundle of evaluation files, a zip at a URL, once: `folder = fetch_bundle(url)`.

It is unpacked in CACHE/bundles/NAME-DIGEST (CACHE as in data/hub.py), under a temporary name until it is whole. The
family's bundle for CORE is a zip of core.yaml, eval_meta_data.csv and eval_data/.
"""

import hashlib
import os
import shutil
import urllib.error
import urllib.request
import zipfile
from pathlib import Path, PurePosixPath

from pynanochat.data.hub import PATIENCE, cache_folder
from pynanochat.errors import DataError

CORE_URL = "https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip"
LARGEST = 4 << 30  # bytes unpacked
BLOCK = 1 << 20


def fetch_bundle(url: str, *, cache_dir: str | Path | None = None, remedy: str = "give a folder instead") -> Path:
    """The folder that the zip at `url` unpacks to; downloaded where it is not there yet.

    Raises DataError, with `remedy`, where it cannot be had or is no proper zip.
    """
    from filelock import FileLock

    name = PurePosixPath(url).name.removesuffix(".zip") or "bundle"
    folder = cache_folder(cache_dir) / "bundles" / f"{name}-{hashlib.sha256(url.encode()).hexdigest()[:12]}"
    if folder.is_dir():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(folder.name + ".lock")):  # one rank fetches, the others wait for it
            if not folder.is_dir():
                _fetch(url, folder)
    except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
        raise DataError(f"{url}: out of reach ({getattr(error, 'reason', error)}); {remedy}") from None
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise DataError(f"{url}: no proper zip ({error}); {remedy}") from None
    except OSError as error:
        raise DataError(f"{folder}: {error.strerror or error}; set PYNANOCHAT_CACHE, or {remedy}") from None
    return folder


def _fetch(url: str, folder: Path) -> None:
    """Download and unpack into `folder`, which appears only once it is whole."""
    archive, unpacked = folder.with_name(folder.name + ".zip"), folder.with_name(folder.name + ".unpacking")
    shutil.rmtree(unpacked, ignore_errors=True)
    try:
        with urllib.request.urlopen(url, timeout=PATIENCE) as answer, open(archive, "wb") as file:
            shutil.copyfileobj(answer, file, BLOCK)
        with zipfile.ZipFile(archive) as members:
            _unpack(members, unpacked)
        os.replace(unpacked, folder)
    finally:
        archive.unlink(missing_ok=True)
        shutil.rmtree(unpacked, ignore_errors=True)


def _unpack(members: zipfile.ZipFile, folder: Path) -> None:
    files = [info for info in members.infolist() if not info.is_dir()]
    if sum(info.file_size for info in files) > LARGEST:
        raise ValueError(f"more than {LARGEST >> 30} GiB unpacked")
    for info in files:
        path = PurePosixPath(info.filename)
        if path.is_absolute() or ".." in path.parts or "\\" in info.filename:
            raise ValueError(f"the name {info.filename!r} leads out of it")
        if path.parts[0] == "__MACOSX":
            continue
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        with members.open(info) as source, open(target, "wb") as file:
            shutil.copyfileobj(source, file, BLOCK)
