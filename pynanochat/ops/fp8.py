"""Scales of tensors that are multiplied in 8-bit floats: by delay, from the largest magnitudes of earlier steps.

    scales = Scales([E4M3, E4M3, E5M2], device="cuda")   # of activations, weight and gradient of a layer, and so on
    y = linear_fp8(x, weight, scales[0:3])               # the casts raise each scale's amax
    scales.update()                                      # once a step

A scale brings the largest magnitude of the last `history` steps just below the format's largest number, that of a
gradient below an eighth of it: gradients vary with what a batch teaches, and e5m2 reaches far enough down. It is a
power of two, so that multiplying is exact and the only rounding is the format's own. What is larger than all that is
cut off in its first step. In the first `measured` steps, which have no history to go by, every tensor is measured
before it is cast, in a pass of its own. Everything stays on the device: nothing here waits for a GPU, and all tensors
change in place. Each scalar has memory of its own, for products and kernels read it at an address that 16 should
divide.
"""

from dataclasses import dataclass

import torch

E4M3 = torch.float8_e4m3fn  # activations and weights: 3 bits of mantissa, up to 448
E5M2 = torch.float8_e5m2  # gradients: 2 bits, up to 57,344
LIMITS = {E4M3: torch.finfo(E4M3).max, E5M2: torch.finfo(E5M2).max / 8}  # for what was seen before


@dataclass
class Scale:
    """The scale of one tensor: scalars on the device. While `measuring` it follows each tensor, not the history."""

    dtype: torch.dtype
    scale: torch.Tensor
    inverse: torch.Tensor
    amax: torch.Tensor
    measuring: bool = True

    def measure(self, x) -> None:
        """While measuring, take the scale from x itself, in a pass over it."""
        if self.measuring:
            largest = x.abs().nan_to_num_(0.0, posinf=0.0).amax().float() if x.numel() else self.amax
            self.scale.copy_(power_of_two(largest, LIMITS[self.dtype], self.scale))
            self.inverse.copy_(1 / self.scale)


def power_of_two(largest, limit, otherwise):
    """The largest power of two times which `largest` is at most `limit`; `otherwise` where nothing was seen."""
    ratio = limit / largest.clamp_min(2.0**-100)
    fraction, _ = torch.frexp(ratio)  # in [1/2, 1), so that the division is exact
    return torch.where(largest > 0, ratio / (2 * fraction), otherwise)


class Scales:
    """Scales of as many tensors as there are `dtypes`; index or slice it for the Scale of one or several."""

    def __init__(self, dtypes, history: int = 16, device=None, measured: int = 1):
        self.limits = torch.tensor([LIMITS[dtype] for dtype in dtypes], device=device)
        self.history = torch.zeros(history, len(dtypes), device=device)  # the newest first
        self.measured, self.updates = measured, 0
        scalar = lambda value: torch.full((), value, device=device)  # noqa: E731
        self._each = [Scale(dtype, scalar(1.0), scalar(1.0), scalar(0.0), measured > 0) for dtype in dtypes]

    def __getitem__(self, which):
        return self._each[which]

    def __len__(self) -> int:
        return len(self._each)

    @property
    def measuring(self) -> bool:
        """Whether the step that is under way measures its tensors."""
        return self.updates < self.measured

    @property
    def scale(self) -> torch.Tensor:
        """All scales side by side, a copy."""
        return torch.stack([each.scale for each in self._each])

    @property
    def amax(self) -> torch.Tensor:
        """The largest magnitudes since the last update, a copy."""
        return torch.stack([each.amax for each in self._each])

    def update(self, seen: torch.Tensor | None = None) -> None:
        """Take in the magnitudes of a step: what `amax` is, or, `seen` by several ranks, the maximum of theirs."""
        seen = self.amax if seen is None else seen
        newest = torch.where(seen.isfinite(), seen, 0)
        self.history.copy_(torch.cat([newest[None], self.history[:-1]]))
        self._set_scale(power_of_two(self.history.amax(0), self.limits, self.scale))
        self.updates += 1
        self.forget()

    def forget(self) -> None:
        """Drop the magnitudes since the last update: those of a step that is not done."""
        torch._foreach_zero_([each.amax for each in self._each])
        for each in self._each:
            each.measuring = self.measuring

    def _set_scale(self, scale) -> None:
        torch._foreach_copy_([each.scale for each in self._each], scale.unbind())
        torch._foreach_copy_([each.inverse for each in self._each], (1 / scale).unbind())

    def state(self) -> dict[str, torch.Tensor]:
        """What a checkpoint, made between two steps, needs to go on bit for bit."""
        return {"history": self.history, "scale": self.scale, "updates": torch.tensor(self.updates)}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        self.history.copy_(state["history"])
        self._set_scale(state["scale"].to(self.history.device))
        self.updates = int(state["updates"])
        self.forget()
