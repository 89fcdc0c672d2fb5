"""Downloads pretraining shards from the Hugging Face Hub: in parallel, resumed, checked.

    fetch("climbmix", shards=8)          # a FolderSource of shards 0 to 7 and of the pinned validation shard

NAME is climbmix (the default), fineweb-edu, or any public dataset repository OWNER/NAME with parquet files whose column
is `text`. Files are kept in CACHE/hub/OWNER--NAME; CACHE is `cache_dir`, $PYNANOCHAT_CACHE or ~/.cache/pynanochat.
manifest.json there holds the size and SHA-256 of every shard that was downloaded whole; what it lists is not asked for
again, so that a second run needs no network. A connection that breaks is taken up where it broke; a run that was
killed begins the shards (of about 100 MB) that were on their way again and keeps the others.
$HF_ENDPOINT names another server, $HF_TOKEN a token.
"""

import errno
import json
import os
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pynanochat.data.sources import FolderSource, digest, split_by_name
from pynanochat.errors import DataError

KNOWN = {  # short name: repository and its number of shards, the last of which is validation
    "climbmix": ("karpathy/climbmix-400b-shuffle", 6543),
    "fineweb-edu": ("karpathy/fineweb-edu-100b-shuffle", 1823),
}
DEFAULT_NAME = "climbmix"
DEFAULT_SHARDS = 8
WORKERS = 8
PATIENCE = 8  # seconds for the server's first answer
REMEDY = "use --data toyworld or --data FOLDER"


def fetch(name: str | None = None, *, shards: int | None = None, cache_dir: str | Path | None = None) -> FolderSource:
    """The source of `shards` training shards and the validation shard of a repository; downloads what is missing.

    Raises DataError, with the choices that remain, when the Hub cannot be reached or what it sends is not right.
    """
    repository, known = KNOWN.get(name or DEFAULT_NAME, (name, None))
    for repo, number in KNOWN.values():
        if repo == repository:
            known = number
    if repository.count("/") != 1:
        raise DataError(f"--data hub:{name}: not a dataset; use hub:climbmix, hub:fineweb-edu or hub:OWNER/NAME")
    folder = cache_folder(cache_dir) / "hub" / repository.replace("/", "--")
    store = Store(repository, folder)
    train, val = numbered(known) if known else store.listing()
    wanted = shards or DEFAULT_SHARDS
    if not 1 <= wanted <= len(train):
        raise DataError(f"{wanted} training shards wanted, {repository} has 1 to {len(train)}; ask for fewer")
    train = train[:wanted]
    download(store, [*val, *train])
    digests = {folder / file: store.manifest[file]["sha256"] for file in [*train, *val]}
    return FolderSource(f"hub:{repository}", [folder / f for f in train], [folder / f for f in val], digests)


def fetch_files(repository: str, prefixes: Sequence[str], *, cache_dir: str | Path | None = None) -> list[Path]:
    """The parquet files of a repository that begin with the first of `prefixes` that any begins with, in order of name;
    downloads what is missing. Raises DataError as `fetch` does, or where there are no such files."""
    folder = cache_folder(cache_dir) / "hub" / repository.replace("/", "--")
    store = Store(repository, folder)
    every = store.parquet_files()
    for prefix in prefixes:
        files = [file for file in every if file.startswith(prefix)]
        if files:
            download(store, files)
            return [folder / file for file in files]
    raise DataError(f"hub:{repository}: no parquet files {prefixes[0]}*; the repository has changed, or {REMEDY}")


def cache_folder(cache_dir: str | Path | None = None) -> Path:
    """Where downloads are kept."""
    return Path(cache_dir or os.environ.get("PYNANOCHAT_CACHE") or Path.home() / ".cache" / "pynanochat")


def numbered(count: int) -> tuple[list[str], list[str]]:
    """(train, val) file names of a repository of `count` numbered shards."""
    names = [f"shard_{i:05d}.parquet" for i in range(count)]
    return names[:-1], names[-1:]


def endpoint() -> str:
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


@dataclass
class Store:
    """A repository's folder on this disk, and its manifest: {file: {"size", "sha256", "commit"}}."""

    repository: str
    folder: Path
    manifest: dict = field(default_factory=dict)

    def __post_init__(self):
        self._lock = threading.Lock()
        try:
            self.manifest = json.loads((self.folder / "manifest.json").read_text())
        except (OSError, ValueError):
            self.manifest = {}

    def read_again(self) -> None:
        """Take in what another process has downloaded meanwhile."""
        self.__post_init__()

    def has(self, file: str) -> bool:
        """True when the file was downloaded whole and still has its size."""
        entry, path = self.manifest.get(file), self.folder / file
        return bool(entry) and path.is_file() and path.stat().st_size == entry["size"]

    def record(self, file: str, entry: dict) -> None:
        """Note a whole file; the manifest is replaced in one step, so that it is never seen half written."""
        with self._lock:
            self.manifest[file] = entry
            temporary = self.folder / f"manifest.json.{os.getpid()}"
            temporary.write_text(json.dumps(self.manifest, indent=1, sort_keys=True))
            temporary.replace(self.folder / "manifest.json")

    def parquet_files(self) -> list[str]:
        """The names of a repository's parquet files, sorted; asked once, then kept in the manifest."""
        if "files" not in self.manifest:
            from huggingface_hub import HfApi

            api = HfApi(endpoint=endpoint())
            files = answer(self, lambda: api.list_repo_files(self.repository, repo_type="dataset"))
            self.folder.mkdir(parents=True, exist_ok=True)
            self.record("files", sorted(file for file in files if file.endswith(".parquet")))
        return self.manifest["files"]

    def listing(self) -> tuple[list[str], list[str]]:
        """(train, val) parquet files of a repository that is not numbered."""
        paths = [Path(file) for file in self.parquet_files()]
        if len(paths) < 2:
            raise DataError(f"hub:{self.repository}: {len(paths)} parquet files, at least 2 are needed; {REMEDY}")
        train, val = split_by_name(paths)
        return [str(path) for path in train], [str(path) for path in val]


def answer(store: Store, ask):
    """What `ask()` returns, or a DataError within PATIENCE + 2 seconds, even if looking up the name hangs."""
    box: queue.Queue = queue.Queue()

    def run():
        try:
            box.put((ask(), None))
        except Exception as error:
            box.put((None, error))

    threading.Thread(target=run, daemon=True).start()
    try:
        value, error = box.get(timeout=PATIENCE + 2)
    except queue.Empty:
        error = TimeoutError(f"no answer in {PATIENCE + 2} seconds")
    if error:
        raise explained(store, error) from None
    return value


def explained(store: Store, error: Exception, file: str = "") -> DataError:
    """The one line for what went wrong between us and the Hub."""
    from huggingface_hub import errors

    what = f"hub:{store.repository}{': ' + file if file else ''}"
    if isinstance(error, DataError):
        return error
    if isinstance(error, errors.RepositoryNotFoundError):
        return DataError(f"{what}: no such public dataset at {endpoint()}; check the name, or {REMEDY}")
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        return DataError(f"{what}: the repository has no such file; ask for fewer shards, or {REMEDY}")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT):
        return DataError(f"{store.folder}: {error.strerror}; free some space or set PYNANOCHAT_CACHE to another folder")
    detail = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
    return DataError(f"{what}: the Hub at {endpoint()} is out of reach ({detail}); {REMEDY}")


def download(store: Store, files: list[str]) -> None:
    """Download the files that are missing. One process of a machine does it, the others wait for it."""
    missing = [file for file in files if not store.has(file)]
    if not missing:
        return
    from filelock import FileLock

    answer(store, lambda: metadata(store, missing[0]))
    try:
        store.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{store.folder}: cannot be made ({error.strerror}); set PYNANOCHAT_CACHE") from None
    with FileLock(store.folder / ".lock"):
        store.read_again()
        for left_over in store.folder.rglob("*.incomplete"):  # of a run that was killed
            left_over.unlink()
        download_in_parallel(store, [file for file in files if not store.has(file)])


def download_in_parallel(store: Store, files: list[str]) -> None:
    """Download files with WORKERS threads and a progress bar; the first error stops everything."""
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    waiting: queue.Queue = queue.Queue()
    for file in files:
        waiting.put(file)
    finished: queue.Queue = queue.Queue()

    def work():
        while True:
            try:
                file = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                finished.put((file, one(store, file)))
            except Exception as error:
                finished.put((file, explained(store, error, file)))
                return

    for _ in range(min(WORKERS, len(files))):
        threading.Thread(target=work, daemon=True).start()  # daemons: Ctrl-C need not wait for them
    follow(store, files, finished)


def follow(store: Store, files: list[str], finished: queue.Queue) -> None:
    """Show progress until every file has come. The bytes are read off the disk, whatever way they get there."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    done: dict[str, int] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"{store.repository}: 0 of {len(files)} shards", total=None)
        while len(done) < len(files):
            try:
                file, result = finished.get(timeout=0.25)
            except queue.Empty:
                file = result = None
            if isinstance(result, DataError):
                raise result
            if result:
                done[file] = result["size"]
            arrived = sum(done.values())
            partial = sum(size_of(path) for path in store.folder.rglob("*.incomplete"))
            progress.update(
                task,
                description=f"{store.repository}: {len(done)} of {len(files)} shards",
                completed=arrived + partial,
                total=arrived * len(files) / len(done) if done else None,  # the rest taken to be as large
            )
            if result and not console.is_terminal:
                console.print(f"{file}: {result['size'] / 1e6:.1f} MB, {len(done)} of {len(files)} shards")


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # it has just been moved to its place
        return 0


def metadata(store: Store, file: str):
    """The server's word on a file: size, etag (the SHA-256 for large files) and commit."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(store.repository, file, repo_type="dataset", endpoint=endpoint())
    return get_hf_file_metadata(url, timeout=PATIENCE)


def one(store: Store, file: str) -> dict:
    """Download one file and check it against what the server says; a file that is not right is fetched once more."""
    from huggingface_hub import hf_hub_download

    said = metadata(store, file)
    for again in (False, True):
        path = hf_hub_download(
            store.repository,
            file,
            repo_type="dataset",
            revision=said.commit_hash,
            local_dir=store.folder,
            endpoint=endpoint(),
            etag_timeout=PATIENCE,
            force_download=again,
        )
        entry = {"size": Path(path).stat().st_size, "sha256": digest(Path(path)), "commit": said.commit_hash}
        wrong = []
        if said.size is not None and entry["size"] != said.size:
            wrong.append(f"{entry['size']:,} bytes instead of {said.size:,}")
        if said.etag and len(said.etag) == 64 and entry["sha256"] != said.etag:
            wrong.append("another SHA-256 than the server names")
        if not wrong:
            store.record(file, entry)
            return entry
    Path(path).unlink(missing_ok=True)
    raise DataError(f"hub:{store.repository}: {file} came with {' and '.join(wrong)}, twice; try later, or {REMEDY}")
