"""Plain torch: a trial's rates as a scheduler, its optimizer with its knobs."""

from collections.abc import Callable, Iterable
from typing import Any

import torch

from lrtune.adapters.trial import TrialLike

TORCH: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "adamax": torch.optim.Adamax,
    "adadelta": torch.optim.Adadelta,
}


def scheduler(trial: TrialLike, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LambdaLR:
    """The trial's rates as torch's LambdaLR: step it after every update."""
    rebase(optimizer, trial.configuration.learning_rate)
    return torch.optim.lr_scheduler.LambdaLR(optimizer, trial.factor)


def rebase(optimizer: torch.optim.Optimizer, peak: float) -> list[float]:
    """Let the first group's base rate be the peak, the others in the ratios to it that they had; answers them all."""
    first = float(optimizer.param_groups[0]["lr"])
    if first <= 0:
        raise ValueError(f"found the rate {first:g} in the optimizer's first group; accepted is one above 0")
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] = peak * (float(group["lr"]) / first)
    return [group["lr"] for group in optimizer.param_groups]


def optimizer(trial: TrialLike, parameters: Iterable[Any]) -> torch.optim.Optimizer:
    """Torch's own optimizer of the configuration. Raises ValueError for muon, which needs to know the model."""
    knobs = trial.configuration.optimizer.as_dict()
    name = knobs.pop("name")
    if name not in TORCH:
        raise ValueError(f"found the optimizer {name}; accepted here is one of {', '.join(TORCH)}")
    if "beta1" in knobs:
        knobs["betas"] = (knobs.pop("beta1"), knobs.pop("beta2"))
    return TORCH[name](parameters, lr=trial.configuration.learning_rate, **knobs)
