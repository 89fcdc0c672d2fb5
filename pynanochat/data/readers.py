"""Reads the documents of one shard: parquet, jsonl, jsonl.gz or txt, in bounded memory.

    for row, text in (rows := Rows(path, start=100)): ...
    rows.count                                            # rows in the shard, known once the loop has ended

A row is a parquet row, a line of JSON with a `text` field, or a document of a txt file: there a document ends at a line
that holds only `<|endoftext|>`, or at the first blank line after 4,000 characters, so that a whole book in one file
becomes documents of about a page and nothing of it is lost. Rows without text (empty or null) are numbered but not
given. Whatever is wrong with a file is a DataError that names the file, the place in it and the remedy.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from pynanochat.errors import DataError

SUFFIXES = (".parquet", ".jsonl", ".jsonl.gz", ".txt")
SEPARATOR = b"<|endoftext|>"
TXT_DOCUMENT = 4_000  # bytes after which a blank line ends a txt document
TXT_LONGEST = 1 << 20  # bytes after which a txt document ends anywhere: the bound on memory
JSON_LONGEST = 64 << 20  # bytes of a line: a longer one is no document but a mistake
BATCH_ROWS = 256  # parquet rows held at once


def is_shard(path: Path) -> bool:
    """True for a regular file whose name ends like a shard's."""
    return path.name.endswith(SUFFIXES) and not path.name.startswith(".") and path.is_file()


class Rows:
    """The rows of `path` from row `start` on for which `wanted(row)` holds, as (row, text); a fresh pass each time.

    `count` is the number of rows in the shard; it is set when a pass has reached the end.
    """

    def __init__(self, path: Path, start: int = 0, wanted: Callable[[int], bool] | None = None):
        self.path = Path(path)
        self.start = start
        self.wanted = wanted or (lambda row: True)
        self.count: int | None = None

    def __iter__(self) -> Iterator[tuple[int, str]]:
        if self.path.name.endswith(".parquet"):
            return self._parquet()
        if self.path.name.endswith(".txt"):
            return self._decoded(self._txt())
        return self._decoded(self._jsonl())

    def _decoded(self, documents: Iterator[tuple[int, str]]) -> Iterator[tuple[int, str]]:
        try:
            for row, text in documents:
                if text:
                    yield row, text
        except FileNotFoundError:
            raise DataError(f"{self.path}: the file is gone; put it back, or start afresh with other data") from None
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise DataError(f"{self.path}: the gzip stream is cut off or damaged ({error}); copy it again") from None
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read ({error.strerror or error}); check the file") from None

    def _jsonl(self) -> Iterator[tuple[int, str]]:
        opener = gzip.open if self.path.name.endswith(".gz") else open
        with opener(self.path, "rb") as file:
            line_number = 0
            while line := file.readline(JSON_LONGEST):
                line_number += 1
                row = line_number - 1
                if len(line) == JSON_LONGEST:
                    raise DataError(
                        f"{self.path}: line {line_number} is longer than {JSON_LONGEST >> 20} MiB; "
                        "write one document a line"
                    )
                if row >= self.start and self.wanted(row):
                    yield row, self._text_of(line, line_number)
            self.count = line_number

    def _text_of(self, line: bytes, number: int) -> str | None:
        if number == 1 and line.startswith(b"\xef\xbb\xbf"):
            line = line[3:]
        if not line.strip():
            return None
        try:
            value = json.loads(line.decode("utf-8"))
        except UnicodeDecodeError as error:
            raise self._not_utf8(f"line {number}, byte {error.start} of the line") from None
        except (ValueError, RecursionError) as error:
            detail = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deeply"
            raise DataError(
                f"{self.path}: line {number} is not valid JSON ({detail}); "
                'each line must be an object such as {"text": "..."}'
            ) from None
        if not isinstance(value, dict) or "text" not in value:
            raise DataError(f'{self.path}: line {number} has no "text" field; each line must be like {{"text": "..."}}')
        text = value["text"]
        if text is not None and not isinstance(text, str):
            raise DataError(f'{self.path}: line {number}: "text" is a {type(text).__name__}; it must be a string')
        if text and not text.isascii():
            try:
                text.encode("utf-8")
            except UnicodeEncodeError:
                raise DataError(
                    f"{self.path}: line {number} holds half of a surrogate pair (\\ud800-\\udfff), which is not text; "
                    "write the file again from its source"
                ) from None
        return text

    def _txt(self) -> Iterator[tuple[int, str]]:
        """Lines are gathered as bytes; only the documents that are wanted are decoded."""
        row, parts, size, offset, begin = 0, [], 0, 0, 0
        with open(self.path, "rb") as file:
            if file.read(3) != b"\xef\xbb\xbf":
                file.seek(0)
            offset = begin = file.tell()
            while line := file.readline(TXT_LONGEST):
                bare = line.strip()
                ends = bare == SEPARATOR or (not bare and size >= TXT_DOCUMENT) or size + len(line) > TXT_LONGEST
                if ends and parts:
                    yield from self._txt_document(row, b"".join(parts), begin)
                    row, parts, size = row + 1, [], 0
                if not parts:
                    begin = offset
                offset += len(line)
                if bare == SEPARATOR or (not bare and not parts):
                    continue
                if not line.endswith(b"\n") and len(line) == TXT_LONGEST:  # never cut a character in two
                    keep = len(line)
                    while keep > len(line) - 4 and line[keep - 1] & 0xC0 == 0x80:
                        keep -= 1
                    if line[keep - 1] >= 0xC0:
                        line, offset = line[: keep - 1], offset - (len(line) - keep + 1)
                        file.seek(offset)
                parts.append(line)
                size += len(line)
            if parts:
                yield from self._txt_document(row, b"".join(parts), begin)
                row += 1
        self.count = row

    def _txt_document(self, row: int, raw: bytes, begin: int) -> Iterator[tuple[int, str]]:
        if row < self.start or not self.wanted(row):
            return
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._not_utf8(f"byte {begin + error.start}") from None
        yield row, text.replace("\r\n", "\n").strip("\n")

    def _parquet(self) -> Iterator[tuple[int, str]]:
        file = open_parquet(self.path)
        with file:
            row = 0
            for group in range(file.metadata.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                if row + rows > self.start:
                    yield from self._row_group(file, group, row)
                row += rows
            self.count = row

    def _row_group(self, file, group: int, row: int) -> Iterator[tuple[int, str]]:
        import pyarrow as pa

        try:
            for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=["text"]):
                column = batch.column(0)
                numbers = [i for i in range(len(column)) if row + i >= self.start and self.wanted(row + i)]
                picked = column if len(numbers) == len(column) else column.take(pa.array(numbers, pa.int64()))
                for i, text in zip(numbers, self._strings(picked, row, numbers), strict=True):
                    if text:
                        yield row + i, text
                row += len(column)
        except (pa.ArrowException, OSError) as error:
            raise damaged_parquet(self.path, f"row group {group}", error) from None

    def _strings(self, column, row: int, numbers: list[int]) -> list[str | None]:
        """The cells as strings; `numbers` are their places after `row`, to name the one that is not UTF-8."""
        try:
            return [cell.decode("utf-8") if isinstance(cell, bytes) else cell for cell in column.to_pylist()]
        except UnicodeDecodeError:
            for number, cell in zip(numbers, column, strict=True):
                try:
                    value = cell.as_py()
                    if isinstance(value, bytes):
                        value.decode("utf-8")
                except UnicodeDecodeError as error:
                    raise self._not_utf8(f"row {row + number}, byte {error.start} of the text") from None
            raise

    def _not_utf8(self, place: str) -> DataError:
        return DataError(f"{self.path}: not UTF-8 at {place}; convert it, for example with iconv -t UTF-8")


def open_parquet(path: Path):
    """The pyarrow.parquet.ParquetFile of a shard with a whole footer and a column `text`, else a DataError."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except FileNotFoundError:
        raise DataError(f"{path}: the file is gone; put it back, or start afresh with other data") from None
    except (pa.ArrowException, OSError) as error:
        raise damaged_parquet(path, "the footer", error) from None
    schema = file.schema_arrow
    if "text" not in schema.names:
        file.close()
        names = ", ".join(schema.names[:6]) or "none"
        raise DataError(f"{path}: no column `text` (columns: {names}); rename the one that holds the text")
    kind = schema.field("text").type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    checks = (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    if not any(check(kind) for check in checks):
        file.close()
        raise DataError(f"{path}: column `text` holds {kind}, not strings; write it as strings")
    return file


def damaged_parquet(path: Path, place: str, error: Exception) -> DataError:
    """The error for a parquet file that is cut off or damaged."""
    detail = str(error).splitlines()[0].rstrip(".")[:120]
    return DataError(f"{path}: damaged or cut off at {place} ({detail}); copy or download the file again")
