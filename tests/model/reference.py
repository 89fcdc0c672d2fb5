"""The two architectures written out once more, one position at a time in float64, from their description alone."""

import torch


def norm(x, eps):
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()


def rotate(x, position, base):
    """x (..., D) turned by -position·θ in the half-split layout."""
    half = x.size(-1) // 2
    theta = position * base ** (-torch.arange(half, dtype=torch.float64) / half)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * theta.cos() + second * theta.sin(), second * theta.cos() - first * theta.sin()], -1)


def attend(q, keys, values, window):
    """q (H, D) of the last position over keys and values, lists of (G, D), oldest first."""
    start = 0 if window < 0 else max(0, len(keys) - 1 - window)
    out = []
    for head in range(q.size(0)):
        group = head * keys[0].size(0) // q.size(0)
        scores = torch.stack([q[head] @ k[group] for k in keys[start:]]) / q.size(1) ** 0.5
        out.append(sum(w * v[group] for w, v in zip(scores.softmax(0), values[start:], strict=True)))
    return torch.cat(out)


def logits(model, ids):
    """Logits (T, V) of one row of ids, by the facts, with the model's weights."""
    c = model.config
    weights = {name: p.detach().double() for name, p in model.named_parameters()}
    memory = [([], []) for _ in range(c.n_layer)]
    before, rows = None, []
    for position, token in enumerate(ids):
        x = embedded = norm(weights["transformer.wte.weight"][token], c.norm_eps)
        if c.smear and before is not None:
            gate = torch.sigmoid(weights["smear_gate.weight"][0] @ x[: c.smear_channels])
            x = x + weights["smear_lambda"] * gate * before
        before, x0 = embedded, x
        for layer in range(c.n_layer):
            w = {n.split(".", 3)[3]: p for n, p in weights.items() if n.startswith(f"transformer.h.{layer}.")}
            if c.residual_scalars:
                x = weights["resid_lambdas"][layer] * x + weights["x0_lambdas"][layer] * x0
            h = norm(x, c.norm_eps)
            q = (w["attn.c_q.weight"] @ h).view(c.n_head, c.head_dim)
            k = (w["attn.c_k.weight"] @ h).view(c.n_kv_head, c.head_dim)
            v = (w["attn.c_v.weight"] @ h).view(c.n_kv_head, c.head_dim)
            if f"value_embeds.{layer}.weight" in weights:
                gate = 3 * torch.sigmoid(w["attn.ve_gate.weight"] @ h[: c.value_gate_channels])
                v = v + gate[:, None] * weights[f"value_embeds.{layer}.weight"][token].view_as(v)
            q, k = (norm(rotate(t, position, c.rope_base), c.norm_eps) * c.qk_scale for t in (q, k))
            keys, values = memory[layer]
            keys.append(k)
            values.append(v)
            x = x + w["attn.c_proj.weight"] @ attend(q, keys, values, c.window(layer))
            h = norm(x, c.norm_eps)
            x = x + w["mlp.c_proj.weight"] @ (w["mlp.c_fc.weight"] @ h).relu().pow(2)
            if layer == c.n_layer // 2:
                middle = x
        if c.backout:
            x = x - weights["backout_lambda"] * middle
        z = weights["lm_head.weight"][: c.vocab_size] @ norm(x, c.norm_eps)
        rows.append(c.softcap * torch.tanh(z / c.softcap))
    return torch.stack(rows)
