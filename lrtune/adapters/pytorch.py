"""Plain torch: a trial's rates as a scheduler, its optimizer with its knobs.

What counts are the updates that an optimizer really makes, whoever steps the scheduler, and how often.
"""

import inspect
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR

from lrtune.adapters import matching
from lrtune.adapters.distributed import require_one_trial
from lrtune.adapters.trial import TrialLike
from lrtune.optimizers import OPTIMIZERS
from lrtune.space import knobs

log = logging.getLogger("lrtune.loop")
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
REMEDY = "make the optimizer with trial.optimizer(model.parameters())"
_FREE = {"params", "lr", "foreach", "fused", "capturable", "differentiable"}  # how fast, and not what
_MUON = {"momentum", "nesterov", "weight_decay"}  # of torch's Muon; the other knobs are those of the AdamW beside it


def scheduler(trial: TrialLike, optimizer: torch.optim.Optimizer, *, step: int = 0) -> "TrialScheduler":
    """The trial's rates as torch's LambdaLR; `step` is how many updates were made before, where a run goes on.

    A second optimizer of the same trial keeps its ratio to the first. Where both begin together it goes by the updates
    of the first as well, of which it may make several to one of the other. Raises ValueError for an optimizer that is
    not the configuration's, and says what to write in the job.
    """
    optimizer = plain(optimizer)
    first: Rates | None = vars(trial).get("_first_rates")
    require_optimizer([*([first.optimizer] if first else []), optimizer], trial)
    rates = Rates(trial, optimizer, first.given[0] if first else None)
    vars(trial).setdefault("_first_rates", rates)
    if first is None and trial.key[1] == 0:
        _say_whose_rate_it_is(rates.given)
    leader: Updates | None = vars(trial).get("_updates")
    together = leader and leader.optimizer is not optimizer and leader.done == step and not leader.made
    found = TrialScheduler(trial, optimizer, rates, step, leader if together else None)
    if not together:
        vars(trial)["_updates"] = found.updates
    return found


def _say_whose_rate_it_is(given: Sequence[float]) -> None:
    """Of the baseline, where a script's groups have rates of their own and the first is not the one people speak of."""
    if given[0] < max(given):
        found = f"found parameter groups with rates from {min(given):.4g} to {max(given):.4g}"
        log.warning(
            "%s: the trial's rates, and the learning_rate of a job's baseline, are those of the first group, which "
            "this script gives %.4g; the others keep their ratios",
            found,
            given[0],
        )


def optimizer(trial: TrialLike, parameters: Iterable[Any]) -> torch.optim.Optimizer:
    """Torch's own optimizer of the configuration. Raises ValueError for muon, which needs to know the model."""
    asked = trial.configuration.optimizer.as_dict()
    name = asked.pop("name")
    if name not in TORCH:
        raise ValueError(f"found the optimizer {name}; accepted here is one of {', '.join(TORCH)}")
    if "beta1" in asked:
        asked["betas"] = (asked.pop("beta1"), asked.pop("beta2"))
    return TORCH[name](parameters, lr=trial.configuration.learning_rate, **asked)


class Rates:
    """The rates of an optimizer's groups: each its ratio to the `first` rate of the script, times the trial's.

    What the script had `given` them is known of a run that goes on, whatever others have written over it since.
    """

    def __init__(
        self,
        trial: TrialLike,
        optimizer: torch.optim.Optimizer,
        first: float | None = None,
        *,
        given: Sequence[float] | None = None,
    ) -> None:
        self.trial, self.optimizer = trial, optimizer
        self.given = given = [_base(group) for group in optimizer.param_groups] if given is None else [*given]
        first = given[0] if first is None else first
        if first <= 0:
            found = f"found the rate {first:g} in the optimizer's first group"
            raise ValueError(f"{found}; accepted is one above 0, the warm-up is the trial's")
        self.bases = [trial.configuration.learning_rate * (rate / first) for rate in given]
        for group, rate in zip(optimizer.param_groups, given, strict=True):
            group["initial_lr"] = rate  # the script's own, for whoever follows a trial with this optimizer next

    def set(self, step: int) -> list[float]:
        """Set and answer the rates of a step. Raises ValueError where a group has come since."""
        groups, factor = self.optimizer.param_groups, self.trial.factor(step)
        if len(groups) != len(self.bases):
            found = f"found {len(groups)} parameter groups, and {len(self.bases)} when the trial began"
            raise ValueError(f"{found}; accepted is an optimizer that has all its groups from the beginning")
        rates = [base * factor for base in self.bases]
        for group, rate in zip(groups, rates, strict=True):
            if isinstance(group["lr"], torch.Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        return rates


class Updates:
    """Counts the updates that an optimizer makes, and calls `before` each of them, first of all its hooks."""

    def __init__(self, optimizer: torch.optim.Optimizer, before: Callable[[], None], done: int = 0) -> None:
        self.optimizer, self.done, self.made, self._before, self._begun = optimizer, done, 0, before, False
        if (earlier := vars(optimizer).get("_lrtune_updates")) is not None:
            earlier.leave()
        first = optimizer.register_step_pre_hook(self._on_begin)
        optimizer._optimizer_step_pre_hooks.move_to_end(first.id, last=False)  # type: ignore[attr-defined]
        self._hooks = (first, optimizer.register_step_post_hook(self._on_end))
        vars(optimizer)["_lrtune_updates"] = self

    def leave(self) -> None:
        """Let the optimizer be."""
        for hook in self._hooks:
            hook.remove()

    def _on_begin(self, *_: Any) -> None:
        self._begun = True
        self._before()

    def _on_end(self, *_: Any) -> None:
        """Count an update once, also that of a subclass whose `step` calls that of its parent."""
        self.done += self._begun
        self.made += self._begun
        self._begun = False


class TrialScheduler(LambdaLR):
    """A LambdaLR that goes by the updates of its optimizer: it may be stepped once an update, or more, or less often.

    So it is right with accumulated batches, skipped updates, and Accelerate's scheduler, which steps once a process.
    """

    def __init__(
        self, trial: TrialLike, optimizer: torch.optim.Optimizer, rates: Rates, step: int, led: Updates | None
    ) -> None:
        self._trial, self._rates, self._led, self._agreed = trial, rates, led, False
        self.updates = Updates(optimizer, self._prepare, step)
        super().__init__(optimizer, trial.factor)

    def _next(self) -> int:
        """The step of the next update, counted from 0."""
        done = self.updates.done
        if self._led is None:
            return done
        return self._led.done - (self._led.done > done)  # the first one's update of this round may have been made

    def step(self, epoch: int | None = None) -> None:
        """Set the rates of the next update."""
        self._step_count += 1
        self.last_epoch = self.updates.done
        self._last_lr = list(self._rates.set(self._next()))

    def state_dict(self) -> dict[str, Any]:
        """How many updates were made; what the rates are is the trial's to say."""
        return {"last_epoch": self.updates.done, "_step_count": self._step_count, "_last_lr": self._last_lr}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on after the updates of a state, that of another LambdaLR as well."""
        self.updates.done = int(state_dict["last_epoch"])
        self.step()

    def _prepare(self) -> None:
        if not self._agreed:
            require_one_trial(self._trial)
            self._agreed = True
        self._rates.set(self._next())


def plain(optimizer: Any) -> torch.optim.Optimizer:
    """Torch's optimizer inside Accelerate's and Lightning's. Raises ValueError where there is none."""
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise ValueError(
            f"found {type(optimizer).__name__}; accepted is an optimizer of torch's, else {matching.BY_HAND}"
        )
    return optimizer


def require_optimizer(optimizers: Sequence[torch.optim.Optimizer], trial: TrialLike) -> None:
    """Raise ValueError for an optimizer, class or knobs, that is not the configuration's; muon has an AdamW beside."""
    configuration = trial.configuration
    asked = matching.kind(configuration.optimizer)
    beside_muon = asked == "muon" and any(matching.kind(one) == "muon" for one in optimizers)
    for one in optimizers:
        name = matching.kind(one)
        if any("base_momentum" in group for group in one.param_groups):  # torch's schedulers leave it there
            cycling = "found a scheduler that changes the momentum, as OneCycleLR and CyclicLR do"
            raise ValueError(f"{cycling}; accepted is cycle_momentum=False, as a trial has one momentum")
        found = _knobs(one, name)
        if beside_muon and name in ("muon", "adamw"):
            matching.require("muon", found, configuration, remedy=matching.BY_HAND)
        else:
            matching.require(name, found, configuration, remedy=REMEDY)
        _refuse_unsayable(one, name)


def _knobs(optimizer: torch.optim.Optimizer, name: str) -> dict[str, list[Any]]:
    """The values that an optimizer's groups have of our knobs."""
    usual = OPTIMIZERS[name]()
    asked = [knob for knob in knobs(OPTIMIZERS[name]) if name != "muon" or knob in _MUON]
    return {knob: [_knob(group, knob, getattr(usual, knob)) for group in optimizer.param_groups] for knob in asked}


def _knob(group: Mapping[str, Any], knob: str, usual: Any) -> Any:
    if knob in ("beta1", "beta2") and "betas" in group:
        return group["betas"][("beta1", "beta2").index(knob)]
    return group.get(knob, usual)


def _refuse_unsayable(optimizer: torch.optim.Optimizer, name: str) -> None:
    """Torch's other arguments are to be as torch has them."""
    made = next(cls for cls in type(optimizer).__mro__ if cls.__name__.lower() == name.replace("-", ""))
    known = {"betas", "eps", *knobs(OPTIMIZERS[name])} | _FREE
    usual = {p.name: p.default for p in inspect.signature(made).parameters.values() if p.name not in known}
    usual = {option: value for option, value in usual.items() if value is not inspect.Parameter.empty}
    usual |= {"adjust_lr_fn": "match_rms_adamw"} if name == "muon" else {}
    for group in optimizer.param_groups:
        matching.refuse_unsayable(name, {option: group.get(option, value) for option, value in usual.items()}, usual)


def _base(group: Mapping[str, Any]) -> float:
    """A group's rate as the script has it, before any scheduler: a warm-up may stand at 0 now."""
    return float(group.get("initial_lr", group["lr"]))


def event_files(folder: str) -> Any:
    """Torch's writer of TensorBoard's event files. Raises ImportError where TensorBoard is missing."""
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(folder)
