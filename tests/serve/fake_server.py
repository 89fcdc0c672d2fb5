"""The whole server on a FakeEngine, for whoever works on the page: `python -m tests.serve.fake_server --port 8010`.

The last word of the message chooses the answer: markdown, code, tool, html, long, emoji, slow, empty, crash; anything
else is echoed. The run has all four stages.
"""

import argparse
import asyncio
from pathlib import Path
from types import SimpleNamespace

from pynanochat.serve import commands
from pynanochat.serve.gate import Access
from pynanochat.serve.limits import Defaults, Limits
from tests.serve.fakes import ByteTokenizer, FakeEngine, ids_of

ANSWERS = {
    "markdown": """# A heading

Some *italic*, **bold** and `code` words, a [link](https://example.org) and a list:

- first
- second
  - nested

1. one
2. two

> a quotation

| place | price |
|---|---:|
| Norwich | 3 |
""",
    "code": "Here it is:\n\n```python\ndef add(a, b):\n    return a + b < 3 and '<b>'\n```\n\nand `print(1)`.",
    "tool": "There are {python_start}12*31{python_end}{output_start}372{output_end} apples, and "
    "{python_start}'strawberry'.count('r'){python_end}{output_start}3{output_end} times r.",
    "html": '<script>window.hacked=1</script><img src=x onerror="window.hacked=1"> [a](javascript:alert(1)) '
    "<svg onload=alert(1)> ```<b>``` \n\n```html\n</code></pre><script>window.hacked=1</script>\n```\n"
    "![x](javascript:alert(1)) <a href='data:text/html,<script>1</script>'>d</a> &lt;b&gt; \x00 \u202e evil",
    "long": "The quick brown fox jumps over the lazy dog. " * 80,
    "emoji": "\U0001f680 rockets, \U0001f469\u200d\U0001f680 astronauts, caf\u00e9, \u4e16\u754c.",
    "slow": "This answer takes its time, letter by letter. " * 4,
    "empty": "",
}


def script(stage, request):
    """The answer that the last word of the prompt names; each sample and each stage a little different."""
    text = ByteTokenizer().decode_bytes([id for id in request.prompt if id < 256]).decode(errors="replace")
    word = (text.split() or [""])[-1].lower()
    answer = ANSWERS.get(word, f"You said: {text[-300:]}".replace("{", "(").replace("}", ")"))
    first = f"({stage}) " if stage != "rl" else ""
    return [ids_of(f"{first}{answer}{{assistant_end}}")] * request.samples


class Fake(FakeEngine):
    async def generate(self, stage, request, ended=frozenset()):
        self.pace = 0.1 if request.prompt[-5:-1] == tuple(b"slow") or b"slow" in bytes(
            id for id in request.prompt[-8:] if id < 256
        ) else 0.004  # fmt: skip
        crash = b"crash" in bytes(id for id in request.prompt[-9:] if id < 256)
        async for tokens in super().generate(stage, request, ended):
            yield tokens
            if crash:
                self.crash(alive=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--port", type=int, default=8010)
    parser.add_argument("--folder", type=Path, default=Path("runs/fake"), help="a run's folder, for /watch")
    args = parser.parse_args()
    commands._log_to_stderr(quiet=False)
    engine = Fake(stages=("pretrain", "midtrain", "sft", "rl"), context=2048, script=script)
    where = SimpleNamespace(host="127.0.0.1", port=args.port, open=False)
    asyncio.run(commands.serve(engine, args.folder, where, Limits(), Defaults(), Access()))


if __name__ == "__main__":
    main()
