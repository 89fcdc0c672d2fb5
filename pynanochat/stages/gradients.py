"""The gradients of one step: of every stream's micro-batch, in pieces where the memory is too small for a whole one.

    gradients = Gradients("pretrain", model, optimizer, loss, stream_count, ranks, say=print)
    loss, tokens = gradients.add_up(streams)     # of this rank
    gradients.sum_over_ranks()
    gradients.move_scales(finite=True)           # once the step was done, or skipped

They are those of the mean loss over all streams of all ranks, whatever pieces a micro-batch goes in.
"""

import contextlib

import torch
import torch.distributed as dist

from pynanochat.errors import TrainingError
from pynanochat.ops.casts import casts_kept
from pynanochat.runtime import Ranks
from pynanochat.stages.pieces import pieces_of, tokens_of


class Gradients:
    """forward: what the loss calls, `model` or a compiled form of it; `give_up(error)` of it says whether it can go on
    uncompiled. loss(forward, batch) -> scalar tensor."""

    def __init__(self, name, model, optimizer, loss, stream_count: int, ranks: Ranks, say, forward=None):
        self.name, self.model, self.optimizer, self.loss = name, model, optimizer, loss
        self.stream_count, self.ranks, self.say = stream_count, ranks, say
        self.forward = model if forward is None else forward  # torch's compiled modules have a length, and no truth
        self.device = next(model.parameters()).device
        self.pieces = 1  # that a micro-batch goes through the model in: more once one did not fit the GPU's memory

    def add_up(self, streams: dict) -> tuple[torch.Tensor, int]:
        """Gradients of the mean loss over this rank's micro-batches, divided by those of all ranks; the summed loss and
        the tokens. Where the GPU's memory is too small, the same batches again in smaller pieces, and where the
        backward pass does not compile, uncompiled."""
        batches: list = []
        if self.model.fp8 is not None:
            self.model.fp8.begin()
        while True:
            compiles = True
            try:
                with casts_kept(), contextlib.suppress(torch.cuda.OutOfMemoryError):  # which lets go of its tensors
                    return self._of(batches, streams)
            except torch._dynamo.exc.TorchDynamoException as error:
                compiles = False
                if not (hasattr(self.forward, "give_up") and self.forward.give_up(error)):
                    raise
            self.optimizer.zero_grad(set_to_none=True)
            if compiles:
                torch.cuda.empty_cache()
                self._split(batches[-1])

    def _of(self, batches: list, streams: dict) -> tuple[torch.Tensor, int]:
        """Those of `batches`, one from each stream, which are drawn here where they are not there."""
        total, tokens = torch.zeros((), device=self.device), 0
        measuring = self.model.fp8 is not None and self.model.fp8.measuring
        forward = self.model if measuring else self.forward  # a few steps are not worth a graph of their own
        for number, stream in enumerate(streams.values()):
            if number == len(batches):
                batches.append(next(stream))
            tokens += tokens_of(batches[number])
            for piece, share in pieces_of(batches[number], self.pieces):
                if share:
                    loss = self.loss(forward, piece) / (self.stream_count / share)
                    loss.backward()
                    total += loss.detach()
        return total, tokens

    def _split(self, batch) -> None:
        """From now on run micro-batches in twice as many pieces. Raises TrainingError for one that has no more rows."""
        before, self.pieces = len(pieces_of(batch, self.pieces)), 2 * self.pieces
        after = len(pieces_of(batch, self.pieces))
        if after == before:
            raise TrainingError(
                f"{self.name}: a micro-batch does not fit into the memory of {self.device} and cannot be made "
                "smaller; use a smaller --device-rows, --sequence-len or --depth"
            )
        self.say(
            f"{self.name}: out of memory on {self.device}: each micro-batch goes in {after} pieces from here on, "
            "the step's batch stays the same"
        )

    def sum_over_ranks(self) -> None:
        if self.ranks.world_size == 1:
            return
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        for parameter in parameters:
            if parameter.grad is None:  # another rank may have one
                parameter.grad = torch.zeros_like(parameter)
        flat = torch.cat([p.grad.flatten() for p in parameters])
        dist.all_reduce(flat)
        for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad.copy_(part.view_as(parameter))

    def move_scales(self, finite: bool) -> None:
        """The scales of products in 8 bits, the same on all ranks, after a step; one that was not finite leaves none
        of its magnitudes behind."""
        fp8 = self.model.fp8
        if fp8 is None:
            return
        if finite:
            fp8.finish(None if self.ranks.world_size == 1 else lambda seen: dist.all_reduce(seen, dist.ReduceOp.MAX))
        else:
            fp8.forget()
