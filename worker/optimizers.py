"""Every optimizer of `lrtune/optimizers.py`, built from torch's own. To add one, give it a row in `TORCH` or a builder.

Muon is two: torch's Muon for the weights of linear layers, AdamW at the same rate for all else (biases, norms,
embeddings, convolutions) and for the last linear layer, the head.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from lrtune.errors import TaskError
from lrtune.optimizers import Adadelta, Adagrad, Adam, Adamax, Adamw, Muon, Nadam, Optimizer, Radam, Rmsprop, Sgd

TORCH: dict[type[Optimizer], Callable[..., torch.optim.Optimizer]] = {
    Sgd: torch.optim.SGD,
    Adagrad: torch.optim.Adagrad,
    Rmsprop: torch.optim.RMSprop,
    Adam: torch.optim.Adam,
    Adamw: torch.optim.AdamW,
    Nadam: torch.optim.NAdam,
    Radam: torch.optim.RAdam,
    Adamax: torch.optim.Adamax,
    Adadelta: torch.optim.Adadelta,
}


class Stepper:
    """One or more torch optimizers that step together; each parameter group follows its own base rate."""

    def __init__(self, parts: Iterable[torch.optim.Optimizer]) -> None:
        self.parts = list(parts)
        self.groups = [group for part in self.parts for group in part.param_groups]
        self._bases = [group["lr"] for group in self.groups]

    def set_factor(self, factor: float) -> None:
        """Set every group's rate to its base rate times the factor: the product that torch's LambdaLR takes."""
        for group, base in zip(self.groups, self._bases, strict=True):
            group["lr"] = base * factor

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for part in self.parts:
            part.zero_grad()

    def step(self) -> None:
        """Move the parameters."""
        for part in self.parts:
            part.step()


def build(optimizer: Optimizer, model: nn.Module, *, learning_rate: float) -> Stepper:
    """The optimizer over a model's parameters, with the peak rate as the base rate of every group."""
    if isinstance(optimizer, Muon):
        return _muon(optimizer, model, learning_rate)
    make = TORCH[type(optimizer)]
    return Stepper([make(model.parameters(), lr=learning_rate, **_arguments(optimizer))])


def _arguments(optimizer: Optimizer) -> dict[str, Any]:
    """Torch's own arguments: the knobs, with the two betas as a pair."""
    knobs = {name: value for name, value in optimizer.as_dict().items() if name != "name"}
    if "beta1" in knobs:
        knobs["betas"] = (knobs.pop("beta1"), knobs.pop("beta2"))
    return knobs


def _muon(optimizer: Muon, model: nn.Module, learning_rate: float) -> Stepper:
    if not hasattr(torch.optim, "Muon"):
        raise TaskError(f"optimizer muon needs torch 2.9 or newer; this worker has {torch.__version__}")
    hidden = [module.weight for module in model.modules() if isinstance(module, nn.Linear)][:-1]
    if not hidden:
        raise TaskError("optimizer muon needs a linear layer before the last one; this model has none to give it")
    chosen = {id(weight) for weight in hidden}
    matrices = torch.optim.Muon(
        hidden,
        lr=learning_rate,
        momentum=optimizer.momentum,
        nesterov=optimizer.nesterov,
        weight_decay=optimizer.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    rest = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if id(parameter) not in chosen],
        lr=learning_rate,
        betas=(optimizer.beta1, optimizer.beta2),
        weight_decay=optimizer.weight_decay,
        eps=optimizer.eps,
    )
    return Stepper([matrices, rest])
