"""Every optimizer of `lrtune/optimizers.py`, built from torch's own or its package's. To add one, give it a row in
`TORCH`, or a builder.

Muon is two: torch's Muon for the weights of linear layers, AdamW at the same rate for all else (biases, norms,
embeddings, convolutions) and for the last linear layer, the head.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib import import_module
from importlib.util import find_spec
from io import StringIO
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from lrtune.errors import TaskError
from lrtune.optimizers import (
    OPTIMIZERS,
    Adadelta,
    Adagrad,
    Adam,
    Adamax,
    Adamw,
    Muon,
    Nadam,
    Optimizer,
    Prodigy,
    Radam,
    Rmsprop,
    Sgd,
)

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

FUSED = (Sgd, Adam, Adamw)  # of which torch has a kernel for a GPU that moves all weights at once


def with_package() -> list[str]:
    """The optimizers from packages beside torch that are installed here."""
    return [name for name, cls in OPTIMIZERS.items() if cls.packaged and find_spec(cls.packaged[0])]


def without_package() -> list[str]:
    """The optimizers whose packages are not installed here."""
    return [name for name, cls in OPTIMIZERS.items() if cls.packaged and not find_spec(cls.packaged[0])]


@runtime_checkable
class Averaging(Protocol):
    """An optimizer that measures other weights than it trains."""

    param_groups: list[dict[str, Any]]

    def eval(self) -> None:
        """Put the weights to measure in place."""

    def train(self) -> None:
        """Put the weights to train in place."""


class Stepper:
    """One or more torch optimizers that step together; each parameter group follows its own base rate."""

    def __init__(self, parts: Iterable[torch.optim.Optimizer]) -> None:
        self.parts = list(parts)
        self.groups = [group for part in self.parts for group in part.param_groups]
        self._bases = [group["lr"] for group in self.groups]
        self._parameters = [one for group in self.groups for one in group["params"]]

    def set_factor(self, factor: float) -> None:
        """Set every group's rate to its base rate times the factor: the product that torch's LambdaLR takes."""
        for group, base in zip(self.groups, self._bases, strict=True):
            group["lr"] = base * factor

    @property
    def averages(self) -> bool:
        """Whether other weights are measured than are trained."""
        return any(isinstance(part, Averaging) for part in self.parts)

    @contextmanager
    def measured(self) -> Iterator[None]:
        """Have the weights in place that are to be measured, where they are averaged; then those that are trained."""
        averaging = [part for part in self.parts if isinstance(part, Averaging)]
        trained = [one for part in averaging for group in part.param_groups for one in group["params"]]
        before = [one.detach().clone() for one in trained]
        for part in averaging:
            part.eval()
        try:
            yield
        finally:
            for part in averaging:
                part.train()
            with torch.no_grad():  # the way there and back rounds
                for one, kept in zip(trained, before, strict=True):
                    one.copy_(kept)

    def zero_grad(self) -> None:
        """Forget the gradients: what torch's own does, without a record for its profiler."""
        for one in self._parameters:
            one.grad = None

    def step(self) -> None:
        """Move the parameters."""
        for part in self.parts:
            part.step()


def build(
    optimizer: Optimizer,
    model: nn.Module,
    *,
    learning_rate: float,
    groups: Iterable[Mapping[str, Any]] | None = None,
    fused: bool = False,
) -> Stepper:
    """The optimizer over a model's parameters; every group's base rate is its multiple of the peak rate.

    Frozen parameters are left out. `fused` takes torch's one kernel for a step where there is one: it rounds otherwise,
    and leaves out a step whose scaled gradients are not finite without waiting for the device. Raises TaskError for
    groups that are not the model's parameters, once each.
    """
    given = [{"params": model.parameters()}] if groups is None else groups
    parts = [_group(group, learning_rate) for group in given]
    _each_once(model, parts)
    parts = [part for part in parts if part["params"]]
    if isinstance(optimizer, Muon):
        return _muon(optimizer, model, parts, learning_rate)
    if optimizer.packaged:
        return _packaged(optimizer, *optimizer.packaged, parts, learning_rate)
    with _in_words():
        more = {"fused": True} if fused and isinstance(optimizer, FUSED) and _floating(parts) else {}
        return Stepper([TORCH[type(optimizer)](parts, lr=learning_rate, **_arguments(optimizer), **more)])


def _floating(groups: Sequence[Mapping[str, Any]]) -> bool:
    return all(parameter.is_floating_point() for group in groups for parameter in group["params"])


def _group(group: Mapping[str, Any], learning_rate: float) -> dict[str, Any]:
    """A group as torch takes it, without its frozen parameters."""
    if not isinstance(group, Mapping) or "params" not in group:
        raise TaskError(f'groups: found {group!r:.80}; accepted is {{"params": [...], "rate": 0.1}}')
    if "lr" in group:
        raise TaskError(
            f"groups: found lr {group['lr']}; accepted is `rate`, a multiple of the peak rate that is tuned"
        )
    options = {name: value for name, value in group.items() if name not in ("params", "rate")}
    rate, found = group.get("rate", 1.0), group["params"]
    if not isinstance(rate, int | float) or not 0 < rate < math.inf:
        raise TaskError(f"groups: found the rate {rate!r}; accepted is a number above 0, or freeze its parameters")
    parameters = [found] if isinstance(found, nn.Parameter) else list(found)
    return {**options, "params": [one for one in parameters if one.requires_grad], "lr": learning_rate * rate}


def _each_once(model: nn.Module, parts: Sequence[Mapping[str, Any]]) -> None:
    names = {id(parameter): name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not names:
        raise TaskError("model: every parameter is frozen; at least one must have requires_grad")
    given = Counter(id(parameter) for part in parts for parameter in part["params"])
    for words, wrong in (
        ("no group has", [name for key, name in names.items() if not given[key]]),
        ("more than one group has", [name for key, name in names.items() if given[key] > 1]),
        ("the model does not have", [f"{n} of a group" for n in [sum(key not in names for key in given)] if n]),
    ):
        if wrong:
            raise TaskError(f"groups: {words} {', '.join(wrong[:3])}{' ...' if len(wrong) > 3 else ''}")


@contextmanager
def _in_words() -> Iterator[None]:
    """Turn torch's complaint about a group's options into ours."""
    try:
        yield
    except (TypeError, ValueError, KeyError) as error:
        raise TaskError(f"groups: torch's optimizer does not take them: {error}") from error


def _arguments(optimizer: Optimizer) -> dict[str, Any]:
    """Torch's own arguments: the knobs, with the two betas as a pair."""
    knobs = {name: value for name, value in optimizer.as_dict().items() if name != "name"}
    if "beta1" in knobs:
        knobs["betas"] = (knobs.pop("beta1"), knobs.pop("beta2"))
    return knobs


def _packaged(
    optimizer: Optimizer, package: str, cls: str, groups: Sequence[Mapping[str, Any]], rate: float
) -> Stepper:
    """An optimizer from a package beside torch."""
    name = optimizer.as_dict()["name"]
    if find_spec(package) is None:
        raise TaskError(f"optimizer {name} needs {package}: pip install 'lrtune[worker,optimizers]' here")
    if isinstance(optimizer, Prodigy) and len({group["lr"] for group in groups}) > 1:
        raise TaskError(f"groups: {name} has one step size for all; accepted are groups without rates of their own")
    make = getattr(import_module(package), cls)
    with _in_words(), redirect_stdout(StringIO()):  # it announces its weight decay
        made = make(groups, lr=rate, **_arguments(optimizer))
    if isinstance(made, Averaging):
        made.train()
    return Stepper([made])


def _muon(optimizer: Muon, model: nn.Module, groups: Sequence[Mapping[str, Any]], rate: float) -> Stepper:
    if not hasattr(torch.optim, "Muon"):
        raise TaskError(f"optimizer muon needs torch 2.9 or newer; this worker has {torch.__version__}")
    hidden = [module.weight for module in model.modules() if isinstance(module, nn.Linear)][:-1]
    chosen = {id(weight) for weight in hidden if weight.requires_grad}
    if not chosen:
        raise TaskError("optimizer muon needs a linear layer before the last one; this model has none to give it")

    def those(*, matrices: bool) -> list[dict[str, Any]]:
        kept = ({**g, "params": [p for p in g["params"] if (id(p) in chosen) is matrices]} for g in groups)
        return [group for group in kept if group["params"]]

    decay = optimizer.weight_decay
    with _in_words():
        parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon(
                those(matrices=True),
                lr=rate,
                momentum=optimizer.momentum,
                nesterov=optimizer.nesterov,
                weight_decay=decay,
                adjust_lr_fn="match_rms_adamw",
            )
        ]
        if rest := those(matrices=False):
            betas = (optimizer.beta1, optimizer.beta2)
            parts.append(torch.optim.AdamW(rest, lr=rate, betas=betas, weight_decay=decay, eps=optimizer.eps))
    return Stepper(parts)
