"""A byte tokenizer with the face the loader needs, and helpers that write small shards."""

import gzip
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


class ByteTokenizer:
    """ids = UTF-8 bytes, bos = 256."""

    bos_id = 256

    def encode_batch(self, texts, threads=None):
        return [np.frombuffer(text.encode(), np.uint8).astype(np.uint32) for text in texts]


def write_parquet(path, texts, row_group_size=10, column="text"):
    pq.write_table(pa.table({column: texts}), path, row_group_size=row_group_size, compression="zstd")


def write_jsonl(path, texts):
    data = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    path.write_bytes(gzip.compress(data, mtime=0) if path.name.endswith(".gz") else data)


def write_txt(path, texts):
    path.write_text("\n<|endoftext|>\n".join(texts), encoding="utf-8")


def write_shard(path, texts):
    if path.name.endswith(".parquet"):
        write_parquet(path, texts)
    elif path.name.endswith(".txt"):
        write_txt(path, texts)
    else:
        write_jsonl(path, texts)
