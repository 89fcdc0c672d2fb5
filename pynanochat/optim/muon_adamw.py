"""Muon for matrices and AdamW for the rest, in one optimizer object.

    optimizer = MuonAdamW([
        {"kind": "muon", "params": [("blocks.0.fc", p), ...], "lr": 0.02, "weight_decay": 0.28, "recipe": "2026"},
        {"kind": "adamw", "params": [("embed", p)], "lr": 0.3, "betas": (0.8, 0.995), "weight_decay": 0.001},
    ])
    norm = optimizer.clip_gradients(1.0)
    optimizer.apply_schedule(*schedule.at(step, total))
    optimizer.step()

It is a torch.optim.Optimizer (schedulers, hooks, state_dict and load_state_dict work). The momentum of all Muon
parameters of one shape lives in one stack, of which `state[p]` holds views, so that a step is one call of the op for
each shape. `named_state` and `load_named_state` give the state as tensors keyed by parameter name, for safetensors,
and `scalars` and `load_scalars` the groups' numbers, for JSON; both together continue bit for bit.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from pynanochat.errors import CheckpointError, UsageError
from pynanochat.ops.adamw_step import adamw_step
from pynanochat.ops.muon_step import muon_step, second_moment_shape

DEFAULTS = {
    "muon": {"momentum": 0.95, "beta2": 0.9, "weight_decay": 0.0, "recipe": "2026", "ns_steps": 5, "ns_dtype": None},
    "adamw": {"betas": (0.8, 0.95), "eps": 1e-10, "weight_decay": 0.0},
}


class MuonAdamW(torch.optim.Optimizer):
    """Optimizer over groups: dicts with `kind` "muon" or "adamw", `params`, `lr` and what should differ from DEFAULTS.

    Every group also gets `initial_lr` and `initial_weight_decay`, what `apply_schedule` multiplies. Raises UsageError
    for an unknown kind or a Muon parameter that is not a matrix. Parameters without a gradient are left alone in a
    step.
    """

    def __init__(self, groups: Iterable[dict]):
        self._buckets = []  # for each group its buckets, none for AdamW
        super().__init__(list(groups), defaults={})

    def add_param_group(self, param_group: dict) -> None:
        kind = param_group.get("kind")
        if kind not in DEFAULTS:
            raise UsageError(f"optimizer group of kind {kind!r}: use one of {', '.join(DEFAULTS)}")
        super().add_param_group({**DEFAULTS[kind], **param_group})
        group = self.param_groups[-1]
        group.setdefault("initial_lr", group["lr"])
        group.setdefault("initial_weight_decay", group["weight_decay"])
        self._buckets.append(self._make_buckets(group) if kind == "muon" else [])

    def _make_buckets(self, group: dict) -> list["_Bucket"]:
        alike = {}
        for param in group["params"]:
            if param.ndim != 2:
                raise UsageError(
                    f"Muon parameter of shape {tuple(param.shape)}: only matrices; put it in an adamw group"
                )
            alike.setdefault((param.shape, param.dtype, param.device), []).append(param)
        buckets = [_Bucket(params, group["recipe"]) for params in alike.values()]
        for bucket in buckets:
            bucket.attach(self.state)
        return buckets

    @torch.no_grad()
    def step(self, closure=None):
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group, buckets in zip(self.param_groups, self._buckets, strict=True):
            for bucket in buckets:
                bucket.step(group)
            if group["kind"] == "adamw":
                self._step_adamw(group)
        return loss

    def _step_adamw(self, group: dict) -> None:
        by_step = {}
        for param in group["params"]:
            if param.grad is None:
                continue
            state = self.state[param]
            if not state:
                state.update(step=0, exp_avg=torch.zeros_like(param), exp_avg_sq=torch.zeros_like(param))
            state["step"] += 1
            by_step.setdefault((state["step"], param.device), []).append(param)
        for (step, _), params in by_step.items():
            adamw_step(
                params,
                [p.grad for p in params],
                [self.state[p]["exp_avg"] for p in params],
                [self.state[p]["exp_avg_sq"] for p in params],
                step=step,
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                eps=group["eps"],
                weight_decay=group["weight_decay"],
            )

    def apply_schedule(self, lr: float, momentum: float, weight_decay: float) -> None:
        """Set each group's lr to `lr` times its initial one, Muon's momentum, and Muon's decay likewise."""
        for group in self.param_groups:
            group["lr"] = group["initial_lr"] * lr
            if group["kind"] == "muon":
                group["momentum"] = momentum
                group["weight_decay"] = group["initial_weight_decay"] * weight_decay

    def parameters(self) -> list[Tensor]:
        """Every parameter of every group."""
        return [p for group in self.param_groups for p in group["params"]]

    def clip_gradients(self, limit: float | None) -> Tensor:
        """Scale all gradients to a joint norm of at most `limit` (None: only measure). Returns the norm before."""
        gradients = [p.grad for p in self.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if limit is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters(), limit, norm)
        return norm

    def load_state_dict(self, state_dict: dict) -> None:
        super().load_state_dict(state_dict)
        # torch took over the very tensors of state_dict; they may be another optimizer's
        for buckets in self._buckets:
            for bucket in buckets:
                bucket.attach(self.state)
        for state in self.state.values():
            for field in ("exp_avg", "exp_avg_sq"):
                if field in state:
                    state[field] = state[field].clone()

    def named_state(self, named_parameters: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
        """The state as `NAME.FIELD` tensors: momentum_buffer, second_moment, exp_avg, exp_avg_sq, step.

        The tensors share memory with the optimizer. Parameters that it does not own, or that never had a gradient in
        an AdamW group, have none.
        """
        tensors = {}
        for name, param in named_parameters:
            for field, value in self.state.get(param, {}).items():
                tensors[f"{name}.{field}"] = value if isinstance(value, Tensor) else torch.tensor(value)
        return tensors

    def load_named_state(self, tensors: dict[str, Tensor], named_parameters: Iterable[tuple[str, Tensor]]) -> None:
        """Copy in what `named_state` gave. Raises CheckpointError for missing, unknown or misshapen tensors."""
        own = set(map(id, self.parameters()))
        by_name = {}
        for key, value in tensors.items():
            name, _, field = key.rpartition(".")
            by_name.setdefault(name, {})[field] = value
        for name, param in named_parameters:
            if id(param) in own:
                self._load_one(name, param, by_name.pop(name, {}))
        if by_name:
            raise CheckpointError(
                f"optimizer state of {min(by_name)} belongs to no parameter here; load the matching model"
            )

    def _load_one(self, name: str, param: Tensor, given: dict[str, Tensor]) -> None:
        state = self.state[param]
        if "momentum_buffer" not in state:
            if not given:  # never had a gradient
                self.state.pop(param)
                return
            state.update(step=0, exp_avg=torch.zeros_like(param), exp_avg_sq=torch.zeros_like(param))
        if set(given) != set(state):
            raise CheckpointError(
                f"optimizer state of {name} has {', '.join(sorted(given)) or 'nothing'}, "
                f"this optimizer needs {', '.join(sorted(state))}; use the optimizer recipe that saved it"
            )
        for field, value in given.items():
            if field == "step":
                state["step"] = int(value)
            elif value.shape != state[field].shape:
                raise CheckpointError(
                    f"optimizer state {name}.{field} has shape {tuple(value.shape)}, this model needs "
                    f"{tuple(state[field].shape)}; load the matching model"
                )
            else:
                state[field].copy_(value)

    def scalars(self) -> list[dict]:
        """The numbers of each group (lr, momentum, betas, ...), ready for JSON."""
        left_out = ("params", "param_names", "ns_dtype")  # ns_dtype is a property of the machine, not of the run
        return [{k: v for k, v in group.items() if k not in left_out} for group in self.param_groups]

    def load_scalars(self, scalars: list[dict]) -> None:
        """Set the groups' numbers from `scalars`. Raises CheckpointError where the groups are others."""
        kinds = [group["kind"] for group in self.param_groups]
        if [s.get("kind") for s in scalars] != kinds:
            raise CheckpointError(f"saved optimizer has groups {[s.get('kind') for s in scalars]}, this one {kinds}")
        for group, saved in zip(self.param_groups, scalars, strict=True):
            for key, value in saved.items():
                group[key] = tuple(value) if isinstance(value, list) else value


class _Bucket:
    """Muon parameters of one shape and the stacks of their state."""

    def __init__(self, params: list[Tensor], recipe: str):
        self.params = params
        stack = (len(params), *params[0].shape)
        self.momentum_buffer = params[0].new_zeros(stack)
        self.second_moment = params[0].new_zeros(second_moment_shape(stack)) if recipe == "2026" else None

    def attach(self, state) -> None:
        """Make `state` hold views of the stacks, taking over the values that it holds."""
        for i, param in enumerate(self.params):
            views = {"momentum_buffer": self.momentum_buffer[i]}
            if self.second_moment is not None:
                views["second_moment"] = self.second_moment[i]
            for field, view in views.items():
                if field in state[param]:
                    view.copy_(state[param][field])
                else:
                    view.zero_()
            state[param] = views

    def step(self, group: dict) -> None:
        have = [i for i, p in enumerate(self.params) if p.grad is not None]
        runs = [slice(0, len(have))] if len(have) == len(self.params) else [slice(i, i + 1) for i in have]
        for run in runs:
            params = self.params[run]
            muon_step(
                params,
                [p.grad for p in params],
                self.momentum_buffer[run],
                None if self.second_moment is None else self.second_moment[run],
                lr=group["lr"],
                momentum=group["momentum"],
                beta2=group["beta2"],
                weight_decay=group["weight_decay"],
                recipe=group["recipe"],
                ns_steps=group["ns_steps"],
                ns_dtype=group["ns_dtype"],
            )
