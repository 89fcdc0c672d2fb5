"""`pynanochat serve` as people start it: a small run on disk, the engine in its own process, the official client."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import openai
import pytest

from pynanochat.engine import Engine
from pynanochat.tokenizer import Tokenizer
from tests.engine.fakes import save_run

ROOT = Path(__file__).parent.parent.parent
TEXT = "Anna lives in a red house by the sea. Ben sells bread for 3 coins. Caf\u00e9 \u4e16\u754c \U0001f680. "
PATIENCE = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "small"
    tokenizer = Tokenizer.train([TEXT * 50], vocab_size=300)
    save_run(folder, tokenizer, ["pretrain", "sft"], sequence_len=2048)
    return folder


class Served:
    """The command in a process of its own, and the official client of it."""

    def __init__(self, folder):
        command = [sys.executable, "-m", "pynanochat", "serve", str(folder), "--port", "0", "--quiet"]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        self.url = re.search(r"http://\S+", self.process.stdout.readline())[0]
        self.client = openai.OpenAI(base_url=self.url + "/v1", api_key="unused", max_retries=0, timeout=PATIENCE)

    def get(self, path):
        try:
            with urllib.request.urlopen(self.url + path, timeout=PATIENCE) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def until(self, condition):
        end = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < end, "it never came true"
            time.sleep(0.05)

    def engine_pid(self):
        """The one child of the server's process, None where there is none."""
        tasks = Path(f"/proc/{self.process.pid}/task")
        children = [child for task in tasks.iterdir() for child in (task / "children").read_text().split()]
        return int(children[0]) if children else None

    def stats(self):
        return json.loads(self.get("/stats")[1])

    def engine_is_empty(self):
        engine = self.stats()["engine"]
        return engine["alive"] and not engine["running"] and not engine["queued"] and not engine["pages_used"]


@pytest.fixture(scope="module")
def served(folder):
    one = Served(folder)
    yield one
    one.process.kill()
    one.process.wait()


def test_the_models_of_the_run(served):
    assert [model.id for model in served.client.models.list()] == ["small", "small:pretrain", "small:sft"]
    assert served.get("/readyz")[0] == served.get("/livez")[0] == 200


def test_text_is_that_of_the_engine_alone(served, folder):
    prompt = "Caf\u00e9 \u4e16"
    wanted = Engine.load(folder, "pretrain").complete(prompt, max_tokens=40, temperature=0)
    settings = {"model": "small:pretrain", "prompt": prompt, "max_tokens": 40, "temperature": 0}
    assert served.client.completions.create(**settings).choices[0].text == wanted != ""
    stream = served.client.completions.create(**settings, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == wanted


def test_a_seed_gives_the_same_answer_and_n_different_ones(served):
    ask = {"model": "small", "messages": [{"role": "user", "content": "Anna"}], "max_tokens": 12, "seed": 7, "n": 3}
    first, second = (served.client.chat.completions.create(**ask) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in second.choices] and len(set(texts)) > 1


def test_log_probabilities_of_a_prompt(served):
    answer = served.client.completions.create(
        model="small:pretrain", prompt="Anna lives", echo=True, max_tokens=0, logprobs=2
    )
    [choice] = answer.choices
    assert choice.text == "".join(choice.logprobs.tokens) == "Anna lives"
    assert all(value < 0 for value in choice.logprobs.token_logprobs)


def test_clients_that_leave_give_all_pages_back(served):
    for i in range(6):
        stream = served.client.completions.create(
            model="small", prompt=f"{i} Anna lives", max_tokens=1500, temperature=0.7, seed=i, stream=True
        )
        next(iter(stream))
        stream.close()
    served.until(served.engine_is_empty)
    assert served.stats()["requests"]["active"] == 0


def test_kill_9_of_the_engine_is_one_error_to_each_caller(served):
    errors, begun = [], threading.Barrier(4)

    def caller(i):
        # the likeliest answer of this model has no end, so that none is whole before the last caller has begun
        ask = {"model": "small", "prompt": f"{i} Ben", "max_tokens": 2000, "temperature": 0, "n": 4}
        try:
            stream = iter(served.client.completions.create(**ask, stream=True))
            next(stream)
            begun.wait(PATIENCE)
            for _ in stream:
                pass
        except openai.APIError as error:
            errors.append(error)

    threads = [threading.Thread(target=caller, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    begun.wait(PATIENCE)
    before = served.engine_pid()
    os.kill(before, signal.SIGKILL)
    for thread in threads:
        thread.join(PATIENCE)
    assert [error.code for error in errors] == ["engine_error"] * 3 and "signal 9" in str(errors[0])
    assert served.get("/livez")[0] == 200
    served.until(lambda: served.get("/readyz")[0] == 200)
    answer = served.client.completions.create(model="small", prompt="Ben", max_tokens=5)
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert served.stats()["engine"]["restarts"] == 1 and served.engine_pid() != before
    served.until(served.engine_is_empty)


def test_a_signal_leaves_no_process_behind(served):
    child = served.engine_pid()
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(PATIENCE) == 0
    served.until(lambda: not Path(f"/proc/{child}").exists())
