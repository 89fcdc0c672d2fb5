"""Bits per byte: the loss of a model in a unit that does not depend on its tokenizer.

Sum of nats over the target tokens, over ln 2 and the sum of those tokens' bytes; special tokens have no bytes and
count in neither sum.
"""

import math

import torch


@torch.inference_mode()
def bits_per_byte(model, batches, token_bytes, ranks=None) -> float:
    """Bits per byte of `model` over `batches` of token rows (B, T+1); NaN where they hold no byte.

    token_bytes (V,) int64 on the model's device: the bytes of each token, 0 for specials. Under several ranks each
    takes every world_size-th batch, and all get the sum.
    """
    device = token_bytes.device
    nats, size = torch.zeros(2, dtype=torch.float64, device=device)
    rank, world = (ranks.rank, ranks.world_size) if ranks else (0, 1)
    was_training = model.training
    model.eval()
    for i, rows in enumerate(batches):
        if i % world != rank:
            continue
        rows = torch.as_tensor(rows).to(device, torch.int64)
        inputs, targets = rows[:, :-1], rows[:, 1:]
        size_of = token_bytes[targets]
        losses = model(inputs, targets, reduction="none")
        nats += (losses * (size_of > 0)).sum(dtype=torch.float64)
        size += size_of.sum()
    model.train(was_training)
    sums = torch.stack([nats, size])
    if world > 1:
        torch.distributed.all_reduce(sums)
    return (sums[0] / (math.log(2) * sums[1])).item() if sums[1] > 0 else math.nan
