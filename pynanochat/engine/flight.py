"""Tokens that are drawn and not read: on the device for the next step, and on their way to the host.

    flight = Flight(answers, ids)                  ids (R,) as they were drawn, on the device
    drawn.put(ids)                                 the next step takes them up there
    tokens = flight.tokens_of(answer)              its last ones, the one that nobody has read as its number in drawn
    ids = flight.read()                            waits for this step, whatever was launched behind it

R answers, V vocabulary.
"""

import numpy as np
import torch

ALIGNED = 2  # int64: kernels are compiled for addresses that divide by 16


class Drawn:
    """Tokens by number, on the device: from 0 on the vocabulary's, below 0 those that were drawn last, the last at -1.

    The table never changes its address, so that a CUDA graph may hold it.
    """

    def __init__(self, vocabulary: int, rows: int, device):
        self.vocabulary = vocabulary
        self.table = torch.arange(vocabulary + rows, device=device) % vocabulary

    def put(self, ids: torch.Tensor) -> None:
        """These were drawn; what is no token, as of logits that are not numbers, becomes one."""
        torch.clamp(ids, max=self.vocabulary - 1, out=self.table[self.table.size(0) - ids.size(0) :])

    def of(self, numbers: torch.Tensor) -> torch.Tensor:
        """The tokens of these numbers."""
        return self.table[numbers]


class Flight:
    """A step that was launched and is not read: which answers get its tokens, and what the host needs to go on.

    ahead: the answers whose own last token was not read when this step was launched, so that their sequences in the
    cache are yet to advance. waits: the next step, which may overwrite the logits, must not be launched before this one
    is read, as they are asked for. made: tokens of prompts that it scored.
    """

    def __init__(self, answers, ids: torch.Tensor | None, ahead=frozenset(), waits=False, logits=None, made=()):
        self.places = {answer: place for place, answer in enumerate(answers)}
        self.rows, self.ahead, self.waits = len(answers), ahead, waits
        self.logits, self.made = logits, list(made)
        self._ids = self._done = None
        if ids is not None:
            self._ids, self._done = _on_its_way(ids)

    def tokens_of(self, answer) -> dict[int, int]:
        """The last two of an answer's tokens by position, of which it gets the second from this step: as the host knows
        it where it is forced, else its number in Drawn."""
        length = len(answer.tokens)
        return {length - 1: answer.tokens[-1], length: self._coming(answer)}

    def history_of(self, answer) -> list[int]:
        """All of its tokens, where they are asked for: with the one that it gets from this step, as above."""
        plain = answer.ticket.request.sampling.repetition_penalty == 1
        return answer.tokens if plain else [*answer.tokens, self._coming(answer)]

    def _coming(self, answer) -> int:
        return answer.forced[0] if answer.forced else self.places[answer] - self.rows

    def forget(self, gone) -> None:
        """Nobody wants the tokens of the answers for which gone(answer) holds."""
        self.places = {answer: place for answer, place in self.places.items() if not gone(answer)}

    def read(self) -> list[int]:
        """The tokens, by place. Waits until the device has drawn them."""
        if self._done is not None:
            self._done.synchronize()
        return [] if self._ids is None else self._ids.tolist()


def _on_its_way(ids):
    """A copy of `ids` for the host, and the event after which it is there (None: it is)."""
    if ids.device.type != "cuda":
        return ids, None
    copy = torch.empty(ids.shape, dtype=ids.dtype, pin_memory=True)
    copy.copy_(ids, non_blocking=True)
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(ids.device))
    return copy, event


def sent(arrays: list[np.ndarray], device: torch.device) -> list[torch.Tensor]:
    """int64 arrays as tensors on the device; to a GPU they go in one copy that nobody waits for."""
    if device.type != "cuda":
        return [torch.from_numpy(array).to(device) for array in arrays]
    whole, places = packed(arrays)
    whole = torch.from_numpy(whole).pin_memory().to(device, non_blocking=True)
    return [whole[place].view(array.shape) for place, array in zip(places, arrays, strict=True)]


def packed(arrays: list[np.ndarray]) -> tuple[np.ndarray, list[slice]]:
    """All of them in one array, each at an aligned place of it."""
    ends = np.cumsum([-(-array.size // ALIGNED) * ALIGNED for array in arrays]).tolist()
    places = [slice(start, start + array.size) for start, array in zip([0, *ends], arrays, strict=False)]
    whole = np.zeros(ends[-1], np.int64)
    for place, array in zip(places, arrays, strict=True):
        whole[place] = array.ravel()
    return whole, places
