"""Which parameter learns at which rate: `build_optimizer(model, "2026")`.

The model says which parameters play which part through `parameter_groups() -> {part: [(name, parameter), ...]}`; the
tables below give each part its rate. Muon takes "matrix", AdamW every other part.
"""

from dataclasses import dataclass

from pynanochat.errors import UsageError
from pynanochat.optim.muon_adamw import MuonAdamW


@dataclass(frozen=True)
class Rates:
    """AdamW's numbers for one part of the model."""

    lr: float
    betas: tuple[float, float] = (0.8, 0.95)
    weight_decay: float = 0.0
    per_width: bool = False
    """times (width/768)^-½"""
    per_batch: bool = True
    """times the multiplier of the batch size"""


@dataclass(frozen=True)
class Recipe:
    """One generation's optimizer."""

    adamw: dict[str, Rates]
    matrix_lr: float
    matrix_weight_decay: float
    gradient_clip: float | None


# A part that the generation's own architecture lacks has a row too, so that any recipe trains any architecture.
RECIPES = {
    "2025": Recipe(
        adamw={
            "embed": Rates(0.2, per_width=True),
            "head": Rates(0.004, per_width=True),
            "value_embed": Rates(0.1, per_width=True),
            "resid_lambda": Rates(0.005),
            "x0_lambda": Rates(0.5, (0.96, 0.95)),
            "smear_backout": Rates(0.2, per_batch=False),
        },
        matrix_lr=0.02,
        matrix_weight_decay=0.0,
        gradient_clip=1.0,
    ),
    # Where the facts are silent this is the family's: decay 0.05 and β 0.8/0.95 on λr; smear and backout β 0.8/0.95,
    # without decay, at a rate that does not follow the batch; no gradient clip.
    "2026": Recipe(
        adamw={
            "embed": Rates(0.3, (0.8, 0.995), 0.001, per_width=True),
            "head": Rates(0.008, (0.8, 0.96), 0.01, per_width=True),
            "value_embed": Rates(0.15, (0.8, 0.995), 0.01, per_width=True),
            "resid_lambda": Rates(0.005, weight_decay=0.05),
            "x0_lambda": Rates(0.5, (0.96, 0.95)),
            "smear_backout": Rates(0.2, per_batch=False),
        },
        matrix_lr=0.02,
        matrix_weight_decay=0.28,
        gradient_clip=None,
    ),
}


def build_optimizer(
    model,
    recipe: str = "2026",
    *,
    lr_multiplier: float = 1.0,
    weight_decay: float | None = None,
    lrs: dict[str, float] | None = None,
    ns_dtype=None,
) -> MuonAdamW:
    """The optimizer of `recipe` for `model`.

    lr_multiplier: √(batch/2^19), on every part but smear_backout. weight_decay: Muon's, already scaled for batch and
    tokens (default: the recipe's own, unscaled). lrs: base rates that replace the recipe's, by part ("matrix",
    "embed", ...), before any multiplier. ns_dtype: dtype of Muon's iteration, see ops/muon_step.py. The width comes
    from the embedding (V, width). Raises UsageError for an unknown recipe or part.
    """
    if recipe not in RECIPES:
        raise UsageError(f"optimizer recipe {recipe!r} is not known; use one of {', '.join(RECIPES)}")
    table = RECIPES[recipe]
    parts = {part: named for part, named in model.parameter_groups().items() if named}
    known = {"matrix", *table.adamw}
    for part in [*parts, *(lrs or {})]:
        if part not in known:
            raise UsageError(f"model part {part!r} has no learning rate; the parts are {', '.join(sorted(known))}")
    grouped = [id(p) for named in parts.values() for _, p in named]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad), "each parameter in one part"
    base = {"matrix": table.matrix_lr, **{part: rates.lr for part, rates in table.adamw.items()}, **(lrs or {})}
    width_factor = (parts["embed"][0][1].size(-1) / 768) ** -0.5

    groups = []
    for part, rates in table.adamw.items():
        if part in parts:
            lr = base[part] * (width_factor if rates.per_width else 1.0) * (lr_multiplier if rates.per_batch else 1.0)
            groups.append(
                {
                    "kind": "adamw",
                    "name": part,
                    "params": [p for _, p in parts[part]],
                    "lr": lr,
                    "betas": rates.betas,
                    "eps": 1e-10,
                    "weight_decay": rates.weight_decay,
                }
            )
    if "matrix" in parts:
        groups.append(
            {
                "kind": "muon",
                "name": "matrix",
                "params": [p for _, p in parts["matrix"]],
                "lr": base["matrix"] * lr_multiplier,
                "weight_decay": table.matrix_weight_decay if weight_decay is None else weight_decay,
                "recipe": recipe,
                "ns_dtype": ns_dtype,
            }
        )
    return MuonAdamW(groups)
