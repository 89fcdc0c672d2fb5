"""Scales of tensors that are multiplied in 8-bit floats: by delay, from the largest magnitudes of earlier steps.

    scales = Scales([E4M3, E4M3, E5M2], device="cuda")   # of activations, weight and gradient of a layer, and so on
    y = linear_fp8(x, weight, scales[0:3])               # the casts raise each scale's amax
    scales.update()                                      # once a step

A scale brings the largest magnitude of the last `history` steps just below the format's largest number. It is a power
of two, so that multiplying is exact and the only rounding is the format's own. What is larger than ever before is cut
off in its first step. Everything stays on the device: nothing here waits for a GPU, and all tensors change in place.
"""

from dataclasses import dataclass

import torch

E4M3 = torch.float8_e4m3fn  # activations and weights: 3 bits of mantissa, up to 448
E5M2 = torch.float8_e5m2  # gradients: 2 bits, up to 57,344


@dataclass
class Scale:
    """The scale of one tensor: scalars on the device. `seeded` once it has seen the tensor."""

    dtype: torch.dtype
    scale: torch.Tensor
    inverse: torch.Tensor
    amax: torch.Tensor
    seeded: bool = False

    def seed(self, x) -> None:
        """Before the first use there is no earlier step: take the scale from x itself, in a pass of its own."""
        if not self.seeded:
            largest = torch.where(x.isfinite(), x.abs(), 0).amax().float() if x.numel() else self.amax
            self.scale.copy_(power_of_two(largest, torch.finfo(self.dtype).max, self.scale))
            self.inverse.copy_(1 / self.scale)
            self.seeded = True


def power_of_two(largest, limit, otherwise):
    """The largest power of two times which `largest` is at most `limit`; `otherwise` where nothing was seen."""
    ratio = limit / largest.clamp_min(2.0**-100)
    fraction, _ = torch.frexp(ratio)  # in [1/2, 1), so that the division is exact
    return torch.where(largest > 0, ratio / (2 * fraction), otherwise)


class Scales:
    """Scales of as many tensors as there are `dtypes`; index or slice it for the Scale of one or several."""

    def __init__(self, dtypes, history: int = 16, device=None):
        self.limits = torch.tensor([torch.finfo(dtype).max for dtype in dtypes], device=device)
        self.history = torch.zeros(history, len(dtypes), device=device)  # the newest first
        self.amax = torch.zeros(len(dtypes), device=device)  # since the last update
        self.scale, self.inverse = torch.ones_like(self.amax), torch.ones_like(self.amax)
        self._each = [Scale(d, self.scale[i], self.inverse[i], self.amax[i]) for i, d in enumerate(dtypes)]

    def __getitem__(self, which):
        return self._each[which]

    def __len__(self) -> int:
        return len(self._each)

    def update(self) -> None:
        """Take in the magnitudes seen since the last update; several ranks reduce `amax` to its maximum before."""
        newest = torch.where(self.amax.isfinite(), self.amax, 0)
        self.history.copy_(torch.cat([newest[None], self.history[:-1]]))
        self.scale.copy_(power_of_two(self.history.amax(0), self.limits, self.scale))
        self.inverse.copy_(1 / self.scale)
        self.amax.zero_()

    def state(self) -> dict[str, torch.Tensor]:
        """What a checkpoint needs to go on bit for bit."""
        return {"history": self.history, "scale": self.scale, "amax": self.amax}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        for name, own in self.state().items():
            own.copy_(state[name])
        self.inverse.copy_(1 / self.scale)
        for each in self._each:
            each.seeded = True
