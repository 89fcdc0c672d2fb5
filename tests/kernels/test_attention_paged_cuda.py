"""attention_paged in CUDA: what its kernel alone promises, beside test_attention_paged.py."""

import pytest
import torch

from pynanochat.ops import attention_paged
from pynanochat.ops.attention_paged import attention_paged_reference
from pynanochat.ops.backends import implementations
from tests.kernels.test_attention_paged import MORE_QUERIES, ONE_QUERY, doubles, make

OP = "attention_paged"


def test_a_page_that_does_not_exist_gives_nan(backend, device):
    """And harms no other row; nothing is read out of bounds."""
    given = make(ONE_QUERY["splits"], torch.float32, device)
    expected = implementations(OP)[backend](*given)
    for wrong in (given[1].size(0), -1, 2**40):
        given[3][0, 5] = wrong
        ours = implementations(OP)[backend](*given)
        assert ours[0].isnan().all() and torch.equal(ours[1:], expected[1:])


@pytest.mark.gpu
def test_a_prompt_where_cuda_is_forced(backend, no_worse, monkeypatch):
    """It goes to the reference."""
    monkeypatch.setenv("PYNANOCHAT_BACKEND", backend)
    inputs = make(MORE_QUERIES["mixed"], torch.bfloat16, "cuda")
    truth = attention_paged_reference(*doubles(inputs))
    no_worse("out", attention_paged(*inputs), attention_paged_reference(*inputs), truth)
