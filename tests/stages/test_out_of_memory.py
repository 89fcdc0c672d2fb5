"""A GPU whose memory a micro-batch does not fit: the step is done again in smaller pieces, and nothing else changes."""

import numpy as np
import pytest
import torch

from pynanochat.data.conversations import ConversationBatch
from pynanochat.errors import TrainingError
from pynanochat.stages.finetune import conversation_loss
from pynanochat.stages.pieces import pieces_of
from pynanochat.stages.progress import Display
from tests.stages.test_loop import CONFIG, Stream, lines_of, losses, make_loop

ROWS = 4


class Rows(Stream):
    """As Stream, of ROWS rows."""

    def __next__(self):
        return np.concatenate([super().__next__(), super().__next__()])


class SmallCard:
    """The model on a card that `rows` rows fit; it gives up in the forward pass or, as it may, in the backward pass."""

    def __init__(self, model, rows, backward=False):
        self.model, self.rows, self.backward, self.failures = model, rows, backward, 0

    def parameters(self):
        return self.model.parameters()

    def __call__(self, ids, targets, **how):
        loss = self.model(ids, targets, **how)
        if len(ids) <= self.rows:
            return loss
        self.failures += 1
        if not self.backward:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return Exploding.apply(loss)


class Exploding(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")


def loop_of(folder, monkeypatch, rows, backward=False, stream=Rows, **how):
    loop = make_loop(folder, steps=4, eval_every=0, sample_every=0, save_every=0, **how)
    loop.streams = {number: stream(number) for number in loop.streams}
    if rows:
        loop.gradients.forward = SmallCard(loop.model, rows, backward)
    said = []
    monkeypatch.setattr("pynanochat.stages.progress.Display.say", lambda self, text: said.append(text))
    return loop, said


@pytest.mark.parametrize(("rows", "pieces", "backward"), [(2, 2, False), (1, 4, True), (3, 2, True)])
def test_the_same_batches_are_learnt_from_in_smaller_pieces(tmp_path, monkeypatch, rows, pieces, backward):
    loop_of(tmp_path / "whole", monkeypatch, 0)[0].run()
    loop, said = loop_of(tmp_path / "small", monkeypatch, rows, backward)
    summary = loop.run()
    assert loop.gradients.pieces == pieces
    assert loop.gradients.forward.failures == pieces.bit_length() - 1  # found out in the first step, and never again
    lines = [line for line in said if "out of memory" in line]
    assert len(lines) == pieces.bit_length() - 1 and f"in {pieces} pieces from here on" in lines[-1]
    assert summary["tokens"] == 4 * 2 * ROWS * CONFIG.sequence_len and summary["skipped_steps"] == 0
    assert losses(tmp_path / "small") == pytest.approx(losses(tmp_path / "whole"), rel=1e-3)
    assert [line["tokens"] for line in lines_of(tmp_path / "small") if "loss" in line] == [
        (step + 1) * 2 * ROWS * CONFIG.sequence_len for step in range(4)
    ]


def test_the_gradients_are_those_of_whole_batches(tmp_path, monkeypatch):
    """What an attempt that failed has left behind does not count."""
    grads = []
    for rows in (0, 1):
        loop, _ = loop_of(tmp_path, monkeypatch, rows, backward=True)
        loop.display = Display("", 1, False)
        loop.gradients.add_up(loop.streams)
        grads.append({name: p.grad for name, p in loop.model.named_parameters()})
    for name, gradient in grads[0].items():
        torch.testing.assert_close(grads[1][name], gradient, rtol=1e-4, atol=1e-7, msg=name)


def test_a_row_that_does_not_fit_ends_in_one_line(tmp_path, monkeypatch):
    loop, _ = loop_of(tmp_path, monkeypatch, rows=0.5)
    with pytest.raises(TrainingError, match=r"cannot be made smaller; use a smaller --device-rows"):
        loop.run()


def test_a_batch_that_knows_no_pieces_ends_in_one_line(tmp_path, monkeypatch):
    loop, _ = loop_of(tmp_path, monkeypatch, rows=1, stream=Whole)
    loop.gradients.loss = lambda forward, batch: forward(batch.ids, batch.ids)
    with pytest.raises(TrainingError, match="cannot be made smaller"):
        loop.run()


class Whole(Stream):
    """Batches of a stage's own, without pieces."""

    def __next__(self):
        return WholeBatch(torch.from_numpy(super().__next__()[:, 1:]).long())


class WholeBatch:
    def __init__(self, ids):
        self.ids, self.tokens = ids, ids.numel()


def conversations(unknown):
    generator = np.random.default_rng(3)
    inputs = generator.integers(0, CONFIG.vocab_size, (5, CONFIG.sequence_len), dtype=np.int32)
    targets = generator.integers(0, CONFIG.vocab_size, inputs.shape, dtype=np.int32)
    for row, count in enumerate(unknown):
        targets[row, :count] = -1
    return ConversationBatch(inputs, targets, inputs.size)


@pytest.mark.parametrize("count", [2, 3, 8])
@pytest.mark.parametrize("unknown", [(0, 3, 16, 9, 15), (16, 16, 16, 16, 2), (16,) * 5])
def test_pieces_of_masked_conversations_weigh_by_their_targets(tmp_path, unknown, count):
    batch, model = conversations(unknown), make_loop(tmp_path).model
    parts = pieces_of(batch, count)
    assert len(parts) == min(count, 5)
    assert np.array_equal(np.concatenate([part.inputs for part, _ in parts]), batch.inputs)
    whole = conversation_loss(model, batch)
    summed = sum(share * conversation_loss(model, part) for part, share in parts)
    torch.testing.assert_close(summed, whole)


class Uncompilable(SmallCard):
    """Its backward pass does not compile until it is given up."""

    def __call__(self, ids, targets, **how):
        loss = self.model(ids, targets, **how)
        return loss if self.rows else DoesNotCompile.apply(loss)

    def give_up(self, error):
        self.failures += 1
        given_up, self.rows = not self.rows, 1
        return given_up


class DoesNotCompile(Exploding):
    @staticmethod
    def backward(ctx, gradient):
        raise torch._dynamo.exc.BackendCompilerFailed(DoesNotCompile, OSError("no compiler"), None)


def test_a_backward_pass_that_does_not_compile_costs_no_batch(tmp_path, monkeypatch):
    loop_of(tmp_path / "whole", monkeypatch, 0)[0].run()
    loop, _ = loop_of(tmp_path / "given up", monkeypatch, 0)
    loop.gradients.forward = Uncompilable(loop.model, 0)
    loop.run()
    assert loop.gradients.forward.failures == loop.gradients.pieces == 1
    assert losses(tmp_path / "given up") == losses(tmp_path / "whole")


def test_a_step_that_must_be_compiled_ends_where_it_cannot_be(tmp_path, monkeypatch):
    loop, _ = loop_of(tmp_path, monkeypatch, 0)
    loop.gradients.forward = Uncompilable(loop.model, 0)
    loop.gradients.forward.give_up = lambda error: False
    with pytest.raises(torch._dynamo.exc.TorchDynamoException, match="no compiler"):
        loop.run()
