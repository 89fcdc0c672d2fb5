"""What a sequence is calling: collects the expression between <|python_start|> and <|python_end|> and answers it.

forced = state.see(token)    tokens that the sequence must continue with: the result between <|output_start|> and
                             <|output_end|>, or nothing where there was no call or it had no result
"""

from pynanochat.tools.calculator import calculate


class ToolState:
    """The tool call of one sequence. `see` every sampled token in order (not those that it forced)."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        self._expression: list[int] | None = None

    def see(self, token: int) -> list[int]:
        special = self.tokenizer.special_tokens
        if token == special["<|python_start|>"]:
            self._expression = []
        elif token == special["<|python_end|>"] and self._expression is not None:
            expression = self.tokenizer.decode_bytes(self._expression).decode("utf-8", errors="replace")
            self._expression = None
            result = calculate(expression)
            if result is not None:
                return [special["<|output_start|>"], *self.tokenizer.encode(result), special["<|output_end|>"]]
        elif self._expression is not None:
            self._expression.append(token)
        return []
