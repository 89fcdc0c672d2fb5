"""A served run under load: many streams at once against the same requests one after another.

    python -m pynanochat.bench.bench_serve RUN [--streams 64] [--max-tokens 128] [--stage sft] [--chat]
    python -m pynanochat.bench.bench_serve RUN --soak 180
    python -m pynanochat.bench.bench_serve --url http://127.0.0.1:8000

Without --url it starts `pynanochat serve RUN` itself, with the flags that it does not know. Each greedy text under load
must be the one that the request has alone. Shown are time to first token, time between chunks, tokens a second of both
ways and their ratio, and the longest that /livez took meanwhile, asked by a process of its own.

--soak keeps at it for some seconds with clients of every kind, well-behaved or not, and fails where memory, open files
or pages of the KV cache in use grow in its second half.
"""

import argparse
import asyncio
import contextlib
import http.client
import itertools
import json
import multiprocessing
import os
import random
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import aiohttp

from pynanochat.bench.harness import report

TOPICS = (
    "The weather",
    "A house by the sea",
    "My brother",
    "The old teacher",
    "Bread",
    "A long journey",
    "Two friends",
)
QUESTIONS = ("Where does Anna live?", "What is 12 times 31?", "Who are you?", "How many r are in strawberry?")
GROWTH_BYTES = 48 << 20  # of memory, in the second half of a soak
GROWTH_FILES = 8
SOAK_CACHE = ["--cache-tokens", "4096"]  # so few that the cache is full in the first half


class Stream(NamedTuple):
    """What a client saw of one answer."""

    text: str
    tokens: int
    first: float
    """Seconds from asking to the first piece."""
    gaps: list[float]
    """Seconds between pieces."""


class Client:
    """Asks the server at `url`."""

    def __init__(self, url: str, model: str | None, chat: bool, max_tokens: int):
        self.url, self.model, self.chat, self.max_tokens = url, model, chat, max_tokens
        self.session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    def body(self, i: int) -> tuple[str, dict]:
        """The path and body of request number i: all differ."""
        common = {"temperature": 0, "max_tokens": self.max_tokens, "model": self.model, "stream": True}
        common["stream_options"] = {"include_usage": True}
        if self.chat:
            text = f"{QUESTIONS[i % len(QUESTIONS)]} ({i})"
            return "/v1/chat/completions", common | {"messages": [{"role": "user", "content": text}]}
        return "/v1/completions", common | {"prompt": f"{i}. {TOPICS[i % len(TOPICS)]}"}

    async def ask(self, i: int) -> Stream:
        path, body = self.body(i)
        text, tokens, times = "", 0, [time.perf_counter()]
        async with self.session.post(self.url + path, json=body) as response:
            if response.status != 200:
                raise RuntimeError(f"{response.status}: {await response.text()}")
            async for line in response.content:
                if not line.startswith(b"data: {"):
                    continue
                chunk = json.loads(line[6:])
                if "error" in chunk:
                    raise RuntimeError(chunk["error"]["message"])
                tokens = (chunk.get("usage") or {}).get("completion_tokens", tokens)
                for choice in chunk["choices"]:
                    piece = choice.get("text") or choice.get("delta", {}).get("content") or ""
                    if piece:
                        times.append(time.perf_counter())
                        text += piece
        gaps = [b - a for a, b in itertools.pairwise(times[1:])]
        return Stream(text, tokens, times[min(1, len(times) - 1)] - times[0], gaps)

    async def stats(self) -> dict:
        async with self.session.get(self.url + "/stats") as response:
            return await response.json()

    async def settled(self) -> dict:
        """The stats once nothing is under way."""
        for _ in range(300):
            stats = await self.stats()
            busy = stats["requests"]["active"] or stats["engine"].get("running") or stats["engine"].get("queued")
            if not busy:
                return stats
            await asyncio.sleep(0.1)
        raise RuntimeError(f"requests stay behind: {stats['requests']}, {stats['engine']}")


def watch_livez(address: str, ends) -> None:
    """Ask for /livez again and again until told to end; send the seconds that each took."""
    took = []
    connection = http.client.HTTPConnection(address, timeout=30)
    ends.send("ready")
    while not ends.poll(0.05):
        start = time.perf_counter()
        connection.request("GET", "/livez")
        connection.getresponse().read()
        took.append(time.perf_counter() - start)
    ends.send(took)


@contextlib.contextmanager
def livez(url: str):
    """Seconds that /livez took, meanwhile, in the list that this gives."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=watch_livez, args=(urlsplit(url).netloc, theirs), daemon=True)
    process.start()
    took: list[float] = []
    ours.recv()
    try:
        yield took
    finally:
        ours.send(None)
        took += ours.recv()
        process.join()


def at(values: list[float], part: float) -> float:
    """The value that `part` of them do not exceed."""
    return sorted(values)[min(len(values) - 1, int(part * len(values)))] if values else float("nan")


def row(case: str, streams: list[Stream], seconds: float) -> dict:
    firsts, gaps = [s.first for s in streams], [gap for s in streams for gap in s.gaps]
    tokens = sum(s.tokens for s in streams)
    return {
        "case": case,
        "tokens": tokens,
        "tokens/s": tokens / seconds,
        "first ms p50": 1e3 * at(firsts, 0.5),
        "first ms p99": 1e3 * at(firsts, 0.99),
        "between ms p50": 1e3 * at(gaps, 0.5),
        "between ms p99": 1e3 * at(gaps, 0.99),
    }


async def compare(client: Client, count: int, rounds: int) -> list[dict]:
    """The table: both ways take turns for `rounds` rounds; the median round of each is shown."""
    await client.ask(0)
    apart, together, took = [], [], []
    for _ in range(rounds):
        start = time.perf_counter()
        alone = [await client.ask(i) for i in range(count)]
        apart.append((time.perf_counter() - start, alone))
        with livez(client.url) as latencies:
            start = time.perf_counter()
            at_once = await asyncio.gather(*(client.ask(i) for i in range(count)))
            together.append((time.perf_counter() - start, at_once))
        took += latencies
        wrong = sum(a.text != b.text for a, b in zip(alone, at_once, strict=True))
        assert not wrong, f"{wrong} of {count} greedy texts differ under load"
    middle = lambda runs: sorted(runs, key=lambda run: run[0])[len(runs) // 2]  # noqa: E731
    rows = [row("one after another", middle(apart)[1], middle(apart)[0])]
    rows.append(row(f"{count} at once", middle(together)[1], middle(together)[0]))
    rows[1] |= {
        "times one after another": statistics.median(a[0] / b[0] for a, b in zip(apart, together, strict=True)),
        "livez ms p50": 1e3 * at(took, 0.5),
        "livez ms worst": 1e3 * max(took),
    }
    return rows


class Soak:
    """Clients of every kind, for some seconds."""

    def __init__(self, client: Client, pid: int | None, streams: int):
        self.client, self.pid, self.streams = client, pid, streams
        self.chance = random.Random(0)
        self.counts: dict[str, int] = {}

    async def run(self, seconds: float) -> list[dict]:
        await self._for(seconds / 2)  # the cache fills, memory finds its size
        before = await self._quiet()
        await self._for(seconds / 2)
        after = await self._quiet()
        for name, growth in (("memory", GROWTH_BYTES), ("files", GROWTH_FILES), ("pages", 0), ("waiting", 0)):
            assert after[name] <= before[name] + growth, f"{name} grew from {before[name]} to {after[name]}"
        rows = [{"case": f"soak, {moment}", **{k: v for k, v in facts.items()}} for moment, facts in
                (("half-way", before), ("at its end", after))]  # fmt: skip
        return [*rows, {"case": "clients", **self.counts}]

    async def _for(self, seconds):
        end = time.monotonic() + seconds

        async def client():
            while time.monotonic() < end:
                kind = self.chance.choice(
                    [self.reads, self.reads, self.reads, self.leaves, self.halves, self.slow, self.bad]
                )
                self.counts[kind.__name__] = self.counts.get(kind.__name__, 0) + 1
                await kind()

        await asyncio.gather(*(client() for _ in range(self.streams)))

    async def _quiet(self) -> dict:
        """What is held once nothing is under way."""
        stats = await self.client.settled()
        await asyncio.sleep(1.0)
        engine = (await self.client.stats())["engine"]
        memory, files = (
            (sum(facts) for facts in zip(*map(_process, family(self.pid)), strict=True)) if self.pid else (0, 0)
        )
        return {
            "memory": memory,
            "files": files,
            "pages": engine.get("pages_used", 0),
            "waiting": stats["requests"]["waiting_tokens"],
        }

    async def reads(self):
        """Reads its answer to the end."""
        try:
            await self.client.ask(self.chance.randrange(1000))
        except RuntimeError as error:
            if not str(error).startswith("429"):
                raise

    async def leaves(self):
        """Goes away in the middle."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.reads(), self.chance.random())

    async def halves(self):
        """Sends a whole request, closes its half, and reads what comes."""
        reader, writer = await self._send(1.0)
        await asyncio.sleep(self.chance.random() / 2)
        writer.write_eof()
        await self._end(reader, writer)

    async def slow(self):
        """Sends a part of a request, waits, and goes."""
        reader, writer = await self._send(self.chance.random())
        await asyncio.sleep(self.chance.random())
        writer.close()
        await self._end(reader, writer)

    async def bad(self):
        """Sends what is refused."""
        body = self.chance.choice([b"{", b"[]", b'{"prompt": 5}', b'{"messages": []}', b"x" * 100_000])
        headers = {"Content-Type": "application/json"}
        async with self.client.session.post(
            self.client.url + "/v1/completions", data=body, headers=headers
        ) as response:
            assert response.status == 400, response.status

    async def _send(self, part):
        path, body = self.client.body(self.chance.randrange(1000))
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(content)}\r\n\r\n"
        where = urlsplit(self.client.url)
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        whole = head.encode() + content
        writer.write(whole[: max(1, int(part * len(whole)))])
        return reader, writer

    async def _end(self, reader, writer):
        with contextlib.suppress(ConnectionError):
            await reader.read()
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    children = [
        child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return [pid, *(one for child in children for one in family(int(child)))]


def _process(pid: int) -> tuple[int, int]:
    """(resident bytes, open files) of a process."""
    resident = int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) * 1024
    return resident, len(os.listdir(f"/proc/{pid}/fd"))


@contextlib.contextmanager
def served(run: str, flags: list[str]):
    """(url, pid) of `pynanochat serve RUN`, which ends with the block."""
    command = [sys.executable, "-m", "pynanochat", "serve", run, "--port", "0", "--quiet", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        line = process.stdout.readline()
        if not (found := re.search(r"http://\S+", line)):
            raise SystemExit(f"{' '.join(command)} did not start")
        yield found[0], process.pid
    finally:
        process.terminate()
        process.wait()


async def measure(args, url: str, pid: int | None) -> list[dict]:
    client = Client(url, args.model, args.chat, args.max_tokens)
    async with client.session:
        if args.soak:
            return await Soak(client, pid, args.streams).run(args.soak)
        return await compare(client, args.streams, args.rounds)


def main() -> None:
    p = argparse.ArgumentParser(prog="pynanochat bench serve", description=__doc__.split("\n\n")[0])
    p.add_argument("run", nargs="?", metavar="RUN", help="a run under runs/, or its folder")
    p.add_argument("--url", help="of a server that is there already")
    p.add_argument("--streams", type=int, default=64)
    p.add_argument("--max-tokens", type=int, default=128)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--model", help="RUN:STAGE (default: the newest stage)")
    p.add_argument("--chat", action="store_true", help="questions instead of texts to continue")
    p.add_argument("--soak", type=float, default=0.0, metavar="SECONDS")
    args, flags = p.parse_known_args()
    if not (args.url or args.run):
        p.error("name a run, or give --url")
    with contextlib.ExitStack() as stack:
        flags = [*SOAK_CACHE, *flags] if args.soak else flags
        url, pid = (args.url, None) if args.url else stack.enter_context(served(args.run, flags))
        rows = asyncio.run(measure(args, url.rstrip("/"), pid))
    report("serve soak" if args.soak else "serve", rows)


if __name__ == "__main__":
    main()
