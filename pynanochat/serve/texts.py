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
        self.answers = [Answer(tokenizer, self.wishes.stop, self.wishes.top) for _ in range(count)]
        self.offsets = [0] * count
        self.parts: list[list[dict]] = [[] for _ in range(count)]
        self.echoes: list[list] = [[] for _ in prompts]
        self.ended = False

    def read(self, number: int, tokens) -> list[dict]:
        """The choices that tokens of prompt `number` add to."""
        found = []
        n = self.wishes.n
        for token in tokens:
            if token.row < 0:
                self.echoes[number].append(token)
                continue
            if not self.echoed(number):
                found += self._echo(number)
            index = number * n + token.row
            answer = self.answers[index]
            if answer.finish:
                continue
            pieces = answer.read(token)
            if self.wishes.max_tokens == 0:
                pieces, answer.finish = [], "length"
            text = Piece(
                "text",
                "".join(as_text(piece) for piece in pieces),
                tokens=tuple(t for piece in pieces for t in piece.tokens),
            )
            if text.text or text.tokens or answer.finish:
                found.append(self._add(index, text, answer.finish or None))
        self.ended = all(answer.finish for answer in self.answers)
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
