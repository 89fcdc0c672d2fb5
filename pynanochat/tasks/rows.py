"""Finds the rows of a benchmark: in a folder's tasks/, or on the Hub (downloaded once and kept).

    rows = find_rows(where, "GSM8K", ["gsm8k_test"], "openai/gsm8k", ["main/test-"])     # a sequence of dicts

In a folder the first of the given names that exists as tasks/NAME.jsonl, .jsonl.gz or .parquet is read; on the Hub the
parquet files of the first prefix that has any.
"""

from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path

from pynanochat.data.chat_files import json_lines
from pynanochat.data.mixture import content_hash
from pynanochat.data.readers import damaged_parquet
from pynanochat.data.sources import digest
from pynanochat.errors import DataError
from pynanochat.tasks.base import Task, TaskData

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")


class ParquetRows:
    """The rows of parquet files as dicts, made when they are asked for: half a million conversations stay compact."""

    def __init__(self, paths: Sequence[Path]):
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.paths, tables = list(paths), []
        for path in paths:
            try:
                tables.append(pq.read_table(path))
            except (pa.ArrowException, OSError) as error:
                raise damaged_parquet(path, "a row group", error) from None
        try:
            self._batches = pa.concat_tables(tables, promote_options="default").to_batches(max_chunksize=4096)
        except pa.ArrowException as error:
            raise DataError(f"{paths[0].parent}: files whose columns differ ({error}); keep one kind there") from None
        self._starts = [0]
        for batch in self._batches:
            self._starts.append(self._starts[-1] + batch.num_rows)

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, index: int) -> dict:
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        number = bisect_right(self._starts, index) - 1
        return self._batches[number].slice(index - self._starts[number], 1).to_pylist()[0]

    def hash(self) -> str:
        """The SHA-256 (hex) of each file."""
        return "-".join(map(digest, self.paths))


class RowsTask(Task):
    """A task over rows: a subclass says how a row becomes a conversation."""

    def __init__(self, rows: Sequence[dict]):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict:
        row = self.rows[index]
        try:
            return self.conversation(row)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            what = f"row {index} is not as published ({type(error).__name__}: {error}): {str(row)[:80]}"
            raise DataError(f"{self.name}: {what}; copy the file again") from None

    def conversation(self, row: dict) -> dict:
        raise NotImplementedError

    def hash(self) -> str:
        """A SHA-256 (hex) of the rows."""
        return content_hash(self.rows)


def find_rows(
    where: TaskData, task: str, names: Sequence[str], repository: str = "", prefixes: Sequence[str] = ()
) -> Sequence[dict]:
    """The rows of a benchmark. Raises DataError, with the remedy, where there are none."""
    if where.data == "toyworld":
        raise DataError(f"{task} is not in the toy world; use --data hub, or a folder with tasks/{names[0]}.jsonl")
    if where.folder is None:
        from pynanochat.data.hub import fetch_files

        return ParquetRows(fetch_files(repository, prefixes, cache_dir=where.cache_dir or None))
    path = find_file(where.folder / "tasks", names)
    if path is None:
        wanted = " or ".join(f"{name}.jsonl[.gz]" for name in names)
        raise DataError(f"{where.folder}/tasks: no {wanted} for {task}; put it there, or leave {task} out of --tasks")
    return read_rows(path)


def find_file(folder: Path, names: Sequence[str]) -> Path | None:
    """The file of the first name that has one in `folder`."""
    paths = (folder / (name + suffix) for name in names for suffix in SUFFIXES)
    return next((path for path in paths if path.is_file()), None)


def read_rows(path: Path) -> Sequence[dict]:
    """The rows of one file. Raises DataError where it is damaged or empty."""
    rows = ParquetRows([path]) if path.name.endswith(".parquet") else [row for _, row in json_lines(path)]
    if not len(rows):
        raise DataError(f"{path}: it has no rows; copy it again")
    return rows


def field(row: dict, name: str, kind: type | tuple[type, ...], task: str):
    """row[name], or a DataError that says what the row lacks."""
    if not isinstance(row.get(name), kind):
        raise DataError(f"{task}: a row without a proper {name!r}: {str(row)[:80]}; use the published files")
    return row[name]
