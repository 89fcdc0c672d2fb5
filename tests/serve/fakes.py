"""FakeEngine: the face of EngineProcess, and tokens that a script names instead of a model.

    engine = FakeEngine(script)            script(stage, request) -> [tokens of row 0, tokens of row 1, ...]
    engine.pace = 0.01                     seconds a step
    engine.gate.clear()                    no step until it is set again
    engine.crash()                         every request inside gets EngineError

As with the real one, a request that nobody reads makes no tokens, and more than `most_rows` requests wait in a queue.
"""

import asyncio
from typing import NamedTuple

from pynanochat.engine.requests import Request, Token
from pynanochat.errors import EngineError
from pynanochat.tokenizer import SPECIAL_TOKENS

LOGPROB = -0.5


class ByteTokenizer:
    """Ids 0-255 are bytes, then the nine specials."""

    special_tokens = {name: 256 + i for i, name in enumerate(SPECIAL_TOKENS)}  # noqa: RUF012
    bos_id = 256

    def __len__(self):
        return 256 + len(SPECIAL_TOKENS)

    def encode(self, text):
        return list(text.encode(errors="replace"))

    def decode_bytes(self, ids):
        return b"".join(map(self.token_bytes, ids))

    def token_bytes(self, id):
        return bytes([id]) if id < 256 else SPECIAL_TOKENS[id - 256].encode()

    def special_id(self, name):
        return self.special_tokens[name]


class ModelInfo(NamedTuple):
    stage: str
    context: int
    vocab_size: int
    parameters: int
    step: int
    loaded: bool


def ids_of(text: str) -> list[int]:
    """Token ids of a text in which {python_start} stands for <|python_start|>, and so on."""
    ids = []
    for part in text.replace("}", "{").split("{"):
        special = ByteTokenizer.special_tokens.get(f"<|{part}|>")
        ids += [special] if special is not None else list(part.encode())
    return ids


def says(text: str, end: str = "{assistant_end}"):
    """A script of which every answer is `text`."""
    return lambda stage, request: [ids_of(text + end)] * request.samples


def echo(stage, request):
    """A script that says all of the prompt but its special tokens."""
    said = [id for id in request.prompt if id < 256]
    return [[*said, ByteTokenizer.special_tokens["<|assistant_end|>"]]] * request.samples


class FakeEngine:
    def __init__(self, script=None, stages=("pretrain", "sft"), context=512, most_rows=64, pace=0.0):
        self.script, self.most_rows, self.pace = script or says("Hello!"), most_rows, pace
        self.tokenizer = ByteTokenizer()
        self.stages = {name: ModelInfo(name, context, 265, 1234, 10, True) for name in stages}
        self.default_stage = stages[-1]
        self.gate = asyncio.Event()
        self.gate.set()
        self.live: dict[int, Request] = {}
        self.requests: list[tuple[str, Request]] = []
        self.made = self.prompt_tokens = self.restarts = 0
        self.alive = False
        self._rows = asyncio.Semaphore(most_rows)
        self._crashes = 0

    async def start(self):
        self.alive = True

    async def stop(self):
        self.crash()

    def crash(self, alive: bool = False):
        """Every request inside ends with EngineError; the process is gone until `alive` is set again."""
        self._crashes += 1
        self.alive = alive
        self.restarts += 1
        self.gate.set()

    async def generate(self, stage, request, ended=frozenset()):
        number, crashes = len(self.requests), self._crashes
        self.requests.append((stage, request))
        self.live[number] = request
        self.prompt_tokens += len(request.prompt)
        try:
            async with self._rows:
                if request.prompt_logprobs:
                    yield [_token(request, -1, id, i > 0) for i, id in enumerate(request.prompt)]
                for tokens in _steps(request, self.script(stage, request), ended):
                    await self.gate.wait()
                    await asyncio.sleep(self.pace)
                    if self._crashes != crashes:
                        raise EngineError("the engine's process ended and is started again; send the request again")
                    self.made += len(tokens)
                    yield tokens
        finally:
            del self.live[number]

    async def stats(self):
        running = min(len(self.live), self.most_rows)
        counts = {"queued": len(self.live) - running, "running": running, "held": 0, "pages": 100}
        counts |= {"pages_used": running, "pages_cached": 0, "prefix_hit_tokens": 0, "preemptions": 0}
        counts |= {"prompt_tokens": self.prompt_tokens, "made_tokens": self.made}
        return counts | {"restarts": self.restarts, "alive": self.alive}

    async def check(self):
        pass


def _token(request, row, id, scored=True, finish="", forced=False):
    if request.logprobs is None or not scored:
        return Token(row, id, forced, finish)
    top = tuple((other % 256, LOGPROB - i) for i, other in enumerate(range(id, id + request.logprobs)))
    return Token(row, id, forced, finish, LOGPROB, top)


def _steps(request, rows, ended):
    """The tokens of each step, but of `ended` rows. What stands between output_start and output_end is forced."""
    special = ByteTokenizer.special_tokens
    stop = request.stop_tokens or {special["<|assistant_end|>"], special["<|bos|>"]}
    forced = [False] * len(rows)
    running = set(range(len(rows)))
    for at in range(max(map(len, rows))):
        tokens, running = [], running - ended
        for row in sorted(running):
            id = rows[row][at]
            forced[row] |= id == special["<|output_start|>"]
            finish = "stop" if id in stop else "length" if at + 1 in (request.max_tokens, len(rows[row])) else ""
            tokens.append(_token(request, row, id, finish=finish, forced=forced[row]))
            forced[row] &= id != special["<|output_end|>"]
            if finish:
                running.discard(row)
        if tokens:
            yield tokens
