"""The choices of a completion request as its tokens come: echoed prompts, text, log-probabilities."""

from pynanochat.serve import replies
from pynanochat.serve.answer import Answer, Piece
from pynanochat.serve.read_request import CompletionCall

_MARKS = {"tool_call": "<|python_{}|>", "tool_output": "<|output_{}|>"}


class Texts:
    """The choices of one completion request: `n` to each prompt, in the order of the prompts."""

    def __init__(self, tokenizer, call: CompletionCall, prompts: list[list[int]]):
        self.tokenizer, self.wishes, self.call, self.prompts = tokenizer, call.wishes, call, prompts
        count = len(prompts) * self.wishes.n
        self.offsets = [0] * count
        self.parts: list[list[dict]] = [[] for _ in range(count)]
        self.echoes: list[list] = [[] for _ in prompts]
        """The engine's tokens of each prompt."""

    def read(self, index: int, answer: Answer, pieces: list[Piece]) -> list[dict]:
        """The choices, as chunks of a stream show them, that new pieces of answer `index` make."""
        found = [] if self.echoed(index // self.wishes.n) else self._echo(index // self.wishes.n)
        finish = answer.finish
        if self.wishes.max_tokens == 0:
            pieces, finish = [], "length"
        found += [self._add(index, Piece("text", as_text(piece), tokens=piece.tokens), None) for piece in pieces]
        if finish:
            found.append(self._add(index, Piece("text", ""), finish))
        return found

    def echoed(self, number: int) -> bool:
        """Whether the prompt, where it is wanted, is in its choices already."""
        return not self.call.echo or bool(self.parts[number * self.wishes.n])

    def _echo(self, number):
        prompt, tokens = self.call.prompts[number], tuple(self.echoes[number])
        if isinstance(prompt, str):
            text, tokens = prompt, tokens[1:]  # <|bos|> is ours
        else:
            text = self.tokenizer.decode_bytes(prompt).decode("utf-8", errors="replace")
        piece = Piece("text", text, tokens=tokens)
        first = number * self.wishes.n
        return [self._add(first + i, piece, None) for i in range(self.wishes.n)]

    def _add(self, index, piece, finish):
        choice = replies.text_choice(self.tokenizer, self.wishes, index, piece, self.offsets[index], finish)
        self.offsets[index] += len(piece.text)
        self.parts[index].append(choice)
        return choice

    def whole(self) -> list[dict]:
        """One choice each, whole."""
        return [_whole(parts) for parts in self.parts]


def as_text(piece) -> str:
    """A piece where there is only text: tool calls and outputs stand between the names of their special tokens."""
    mark = _MARKS.get(piece.kind, "")
    return mark.format("start") + piece.text + mark.format("end")


def _whole(parts: list[dict]) -> dict:
    logprobs = [part["logprobs"] for part in parts]
    merged_logprobs = None
    if logprobs[-1] is not None:
        merged_logprobs = {name: [x for one in logprobs for x in one[name]] for name in logprobs[-1]}
    return parts[-1] | {"text": "".join(part["text"] for part in parts), "logprobs": merged_logprobs}
