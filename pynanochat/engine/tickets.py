"""Requests on their way through the scheduler, and their answers in the making."""

from pynanochat.engine.requests import Request, Token
from pynanochat.engine.sampler import uniform
from pynanochat.engine.tool_state import ToolState


class Ticket:
    """One request on its way."""

    def __init__(self, number: int, request: Request, stop: frozenset[int], room: int):
        self.number, self.request, self.stop, self.room = number, request, stop, room
        self.held = False
        self.left = request.samples
        """Answers that have not ended."""
        self.siblings: list[Answer] = []
        """Answers that wait for the first one to run the prompt."""
        self.scored = 0
        """Tokens of the prompt that have been given out, of prompt_logprobs."""

    @property
    def scoring(self) -> bool:
        """Whether tokens of the prompt have yet to be given out; only the answer that runs the prompt is under way."""
        return self.request.prompt_logprobs and self.scored < len(self.request.prompt)


class Answer:
    """One answer in the making."""

    def __init__(self, ticket: Ticket, row: int, tool: ToolState | None):
        self.ticket, self.row, self.tool = ticket, row, tool
        self.order = (ticket.number, row)
        self.tokens = list(ticket.request.prompt)
        """The prompt's and its own."""
        self.forced: list[int] = []
        self.cached = None
        """Its Sequence in the cache while it runs."""
        self.counted = False
        """In the statistics of prompts."""

    @property
    def made(self) -> int:
        return len(self.tokens) - len(self.ticket.request.prompt)

    @property
    def asks(self) -> bool:
        """Whether a step with this answer has more to give to the host than a token."""
        return self.ticket.request.logprobs is not None or self.ticket.scoring

    def number(self, ahead: int = 0) -> float:
        """The uniform number that draws the next token, or the one so many tokens later."""
        return uniform(self.ticket.request.seed, self.row, self.made + ahead)

    def take(self, sampled: int) -> Token:
        """Go on with the token forced on this answer, else with the `sampled` one."""
        forced, finish = bool(self.forced), ""
        token = self.forced.pop(0) if forced else sampled
        self.tokens.append(token)
        if not forced and token in self.ticket.stop:
            finish = "stop"
        elif self.made >= self.ticket.room:
            finish = "length"
        elif not forced and self.tool is not None:
            self.forced = self.tool.see(token)
        return Token(self.row, token, forced, finish)
