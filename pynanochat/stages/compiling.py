"""The model as a training step calls it: compiled where that is wanted and can be done.

`--compile on` means it, and what goes wrong is an error. With `auto`, a machine on which torch.compile fails (no C
compiler for Triton, a driver that is too old) trains uncompiled, and one line says so.
"""

import torch

from pynanochat import runtime


def compiled_forward(model, name: str, device, say):
    """What to call instead of `model` for `--compile NAME`: None for the model as it is. `say` is told of a failure."""
    if not runtime.wants_compiling(name, device):
        return None
    compiled = torch.compile(model, dynamic=False)  # one shape, and where a micro-batch had to be split another
    return Attempt(model, compiled, say) if name == "auto" else compiled


class Attempt:
    """`compiled` until it fails to compile, from then on `model`. The backward pass compiles only when it is first
    run: the training loop, which sees that fail, asks `give_up`."""

    def __init__(self, model, compiled, say):
        self.model, self._compiled, self._say = model, compiled, say

    def parameters(self):
        return self.model.parameters()

    def __call__(self, *inputs, **named):
        if self._compiled is not None:
            try:
                return self._compiled(*inputs, **named)
            except torch._dynamo.exc.TorchDynamoException as error:
                self.give_up(error)
        return self.model(*inputs, **named)

    def give_up(self, error) -> bool:
        """Go on with `model`; False where that was so already."""
        if self._compiled is None:
            return False
        self._compiled = None
        reason = " ".join(str(error).split())[:160]
        self._say(f"torch.compile failed ({reason}): training goes on without it; --compile off leaves it out")
        return True
