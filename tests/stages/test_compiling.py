"""What a training step calls where torch.compile works, fails, or is not wanted."""

import pytest
import torch

from pynanochat import runtime
from pynanochat.stages.compiling import Attempt, compiled_forward

GPU = torch.device("cuda", 0)


class Doubler(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.full((1,), 2.0))

    def forward(self, x, *, plus=0.0):
        return self.weight * x + plus


def broken(graph, inputs):
    raise OSError("no C compiler here\nmore lines")


@pytest.fixture(autouse=True)
def fresh_dynamo(monkeypatch):
    monkeypatch.setattr(runtime, "wants_compiling", lambda name, device: name != "off" and device.type == "cuda")
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture
def backend(monkeypatch):
    """Makes torch.compile use another backend."""
    real = torch.compile

    def use(backend):
        monkeypatch.setattr(torch, "compile", lambda model, **how: real(model, backend=backend, **how))

    return use


def test_auto_goes_on_uncompiled_where_compiling_fails_and_says_so_once(backend):
    backend(broken)
    model, said = Doubler(), []
    forward = compiled_forward(model, "auto", GPU, said.append)
    for x in (1.0, 4.0):
        assert forward(torch.tensor(x), plus=1.0).item() == 2 * x + 1
    assert len(said) == 1 and "no C compiler here" in said[0] and "\n" not in said[0] and "--compile off" in said[0]
    assert list(forward.parameters()) == list(model.parameters())


def test_on_means_it(backend):
    backend(broken)
    forward = compiled_forward(Doubler(), "on", GPU, print)
    with pytest.raises(torch._dynamo.exc.TorchDynamoException, match="no C compiler"):
        forward(torch.ones(()))


def test_where_it_works_the_graph_runs(backend):
    runs = []

    def counting(graph, inputs):
        def run(*args):
            runs.append(1)
            return graph.forward(*args)

        return run

    backend(counting)
    said = []
    forward = compiled_forward(Doubler(), "auto", GPU, said.append)
    assert forward(torch.tensor(3.0)).item() == forward(torch.tensor(3.0)).item() == 6
    assert len(runs) == 2 and not said


def test_not_wanted():
    assert compiled_forward(Doubler(), "off", GPU, print) is None
    assert compiled_forward(Doubler(), "auto", torch.device("cpu"), print) is None


def test_memory_that_runs_out_is_no_failure_to_compile():
    """The loop does the step again in smaller pieces, compiled."""

    def full(x):
        if len(x) > 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return x

    forward = Attempt(None, full, print)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        forward([1, 2])
    assert forward([1]) == [1]


def test_a_backward_pass_that_does_not_compile_is_given_up_once(backend):
    """It compiles only when it is first run, outside of the call."""
    from torch._dynamo.backends.common import aot_autograd

    def refuse(graph, inputs):  # as torch's own compiler does
        raise torch._dynamo.exc.BackendCompilerFailed(refuse, OSError("no memory for such a kernel"), None)

    backend(aot_autograd(fw_compiler=lambda graph, inputs: graph.forward, bw_compiler=refuse))
    said, model = [], Doubler()
    forward = compiled_forward(model, "auto", GPU, said.append)
    with pytest.raises(torch._dynamo.exc.TorchDynamoException) as error:
        forward(torch.tensor(3.0)).backward()
    assert forward.give_up(error.value) and not forward.give_up(error.value)
    forward(torch.tensor(3.0)).backward()
    assert model.weight.grad.item() == 3 and len(said) == 1
