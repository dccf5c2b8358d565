"""PyTorch: the optimizer, torch's own scheduler where one gives the same rates, else a LambdaLR over the formula.

The formats that train with torch's optimizers (Lightning, Transformers, DeepSpeed, timm) take their lines from here.
"""

from dataclasses import dataclass

from lrtune.export import formulas
from lrtune.export.found import Exported, Found, script
from lrtune.optimizers import Optimizer
from lrtune.schedules import (
    Constant,
    Cosine,
    Cyclic,
    Exponential,
    Linear,
    LinearGrowth,
    Multistep,
    OneCycle,
    Plateau,
    Polynomial,
    Restarts,
    Schedule,
    Step,
)
from lrtune.space import knobs
from lrtune.wire.configuration import Configuration

MODEL = """\
# Your own model in place of this one:
model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))"""
SPELLED = {"Sgd": "SGD", "Rmsprop": "RMSprop", "Adamw": "AdamW", "Nadam": "NAdam", "Radam": "RAdam"}  # as torch does
LRS = "torch.optim.lr_scheduler"


@dataclass(frozen=True, slots=True)
class Lines:
    """What defines the schedule, and the expression that makes its scheduler for an `optimizer`."""

    schedule: str
    scheduler: str


def write(found: Found) -> Exported:
    """A file to paste from: the model is a stand-in, all else is as in the winning run."""
    lines = scheduling(found)
    optimizers, loop = _optimizer_and_loop(found.configuration, lines.scheduler)
    needed = formulas.imports(lines.schedule, torch="import torch")
    return script(found, "learning_rate.py", needed, MODEL, lines.schedule, optimizers, loop)


def scheduling(found: Found) -> Lines:
    """Torch's own scheduler, or LambdaLR over the formula."""
    if own := _own(found):
        return Lines(formulas.constants(found), own)
    return Lines(formulas.factor(found), f"{LRS}.LambdaLR(optimizer, factor)")


# Torch's own schedulers ----------------------------------------------------------------------------------------------


def _own(found: Found) -> str | None:
    """The expression of torch's own scheduler that follows this curve, warm-up included; None where none does."""
    if not found.free or found.rise == 1:
        return None
    if not found.rise:
        return _alone(found.family, found.span) or _stepwise(found.family, found.span)
    after = _stepwise(found.family, found.span)
    if after is None:
        return None
    rise = f"{LRS}.LinearLR(optimizer, start_factor=1 / {found.rise}, total_iters={found.rise - 1})"
    return (
        f"{LRS}.SequentialLR(\n    optimizer,\n    [\n        {rise},\n        {after},\n    ],\n    [{found.rise}],\n)"
    )


def _stepwise(family: Schedule, span: int) -> str | None:
    """Schedulers that may also follow another one."""
    match family:
        case Constant() | Plateau():
            return f"{LRS}.ConstantLR(optimizer, factor=1.0)"
        case Cosine(final=final, arc=1.0):
            return f"{LRS}.CosineAnnealingLR(optimizer, T_max={span}, eta_min={final!r} * PEAK)"
        case Linear(final=final):
            return f"{LRS}.LinearLR(optimizer, start_factor=1.0, end_factor={final!r}, total_iters={span})"
        case LinearGrowth(start=start) if start > 0.0:
            return f"{LRS}.LinearLR(optimizer, start_factor={start!r}, end_factor=1.0, total_iters={span})"
        case Exponential(final=final, every=0.0):
            return f"{LRS}.ExponentialLR(optimizer, gamma={final!r} ** (1 / {span}))"
        case Step(gamma=gamma, every=every):
            return f"{LRS}.StepLR(optimizer, step_size={round(every * span)}, gamma={gamma!r})"
        case Multistep(gamma=gamma, milestones=milestones) if round(milestones[0] * span) > 0:
            steps = [round(milestone * span) for milestone in milestones]
            return f"{LRS}.MultiStepLR(optimizer, milestones={steps}, gamma={gamma!r})"
        case Polynomial(power=power, final=0.0):
            return f"{LRS}.PolynomialLR(optimizer, total_iters={span}, power={power!r})"
    return None


def _alone(family: Schedule, span: int) -> str | None:
    """Schedulers that set the rate from the first step on."""
    match family:
        case Restarts(gamma=1.0, shape="cosine", final=final, cycles=cycles, mult=mult) if mult == round(mult):
            first, rest = divmod(span, sum(round(mult) ** k for k in range(cycles)))
            cosine = f"{LRS}.CosineAnnealingWarmRestarts(optimizer, T_0={first}, T_mult={round(mult)}"
            return None if rest else f"{cosine}, eta_min={final!r} * PEAK)"
        case OneCycle(rise=rise, start=start, final=final, shape=shape) if min(rise, start, final) > 0.0:
            anneal = {"cosine": "cos", "linear": "linear"}[shape]
            share = f"pct_start=({rise!r} * {span} + 1) / ({span} + 1)"
            factors = f"div_factor=1 / {start!r}, final_div_factor={start!r} / {final!r}"
            ends = f'{factors}, anneal_strategy="{anneal}", cycle_momentum=False'
            return f"{LRS}.OneCycleLR(optimizer, max_lr=PEAK, total_steps={span} + 1, {share}, {ends})"
        case Cyclic(base=base, cycles=cycles, mode=mode, gamma=gamma) if span % (2 * cycles) == 0:
            half, torch_mode = span // (2 * cycles), mode.replace("-", "_")
            shrink = f", gamma={gamma!r} ** (1 / {span})" if mode == "exp-range" else ""
            rates = f"base_lr={base!r} * PEAK, max_lr=PEAK, step_size_up={half}"
            return f'{LRS}.CyclicLR(optimizer, {rates}, mode="{torch_mode}"{shrink}, cycle_momentum=False)'
    return None


# The optimizer -------------------------------------------------------------------------------------------------------

_MUON = """\
# As in the runs that found this: Muon for the weights of all linear layers but the last, AdamW for all else.
hidden = [part.weight for part in model.modules() if isinstance(part, torch.nn.Linear)][:-1]
others = [one for one in model.parameters() if all(one is not weight for weight in hidden)]
{first} = torch.optim.Muon(hidden, lr=PEAK, {muon}, adjust_lr_fn="match_rms_adamw")
rest = torch.optim.AdamW(others, lr=PEAK, {adamw})"""

_AVERAGING = """\
# It trains other weights than it gives: optimizer.eval() before measuring or saving, optimizer.train() to go on.
optimizer.train()"""

_TOGETHER = '''


class Together(torch.optim.Optimizer):
    """Two optimizers that share one schedule."""

    def __init__(self, *parts):
        self.parts = parts
        super().__init__([group for part in parts for group in part.param_groups], {"lr": PEAK})

    def step(self, closure=None):
        loss = None if closure is None else closure()
        for part in self.parts:
            part.step()
        return loss


optimizer = Together(muon, rest)'''


def optimizer_lines(configuration: Configuration) -> str:
    """The lines that make `optimizer`, one object whatever it is made of, over the parameters of `model`."""
    chosen = configuration.optimizer
    if type(chosen).__name__ == "Muon":
        return _muon(chosen, first="muon") + _TOGETHER
    if chosen.packaged:
        return _packaged(chosen, *chosen.packaged)
    return f"optimizer = torch.optim.{torch_name(chosen)}(model.parameters(), {arguments(chosen)})"


def _packaged(chosen: Optimizer, package: str, cls: str) -> str:
    made = f"optimizer = {package}.{cls}(model.parameters(), {arguments(chosen)})"
    if chosen.families is not None:
        made = f"{made}\n{_AVERAGING}"
    return f"import {package}  # pip install {package}\n\n{made}"


def torch_name(chosen: Optimizer) -> str:
    """As torch spells it."""
    name = type(chosen).__name__
    return SPELLED.get(name, name)


def arguments(chosen: Optimizer) -> str:
    """Torch's own arguments, the peak rate first."""
    return ", ".join(filter(None, ("lr=PEAK", _arguments(chosen, tuple(knobs(type(chosen)))))))


def clipping(configuration: Configuration, model: str = "model") -> list[str]:
    """The lines that clip the gradients, in the order of the runs."""
    clips = []
    if configuration.clip_norm is not None:
        clips.append(f"torch.nn.utils.clip_grad_norm_({model}.parameters(), {configuration.clip_norm!r})")
    if configuration.clip_value is not None:
        clips.append(f"torch.nn.utils.clip_grad_value_({model}.parameters(), {configuration.clip_value!r})")
    return clips


def _muon(chosen: Optimizer, *, first: str) -> str:
    muon = _arguments(chosen, ("momentum", "nesterov", "weight_decay"))
    return _MUON.format(first=first, muon=muon, adamw=_arguments(chosen, ("beta1", "beta2", "weight_decay", "eps")))


def _optimizer_and_loop(configuration: Configuration, scheduler: str) -> tuple[str, str]:
    """The lines that build the optimizer and its scheduler, and a comment that shows the loop."""
    if type(configuration.optimizer).__name__ != "Muon":
        lines = f"{optimizer_lines(configuration)}\nscheduler = {scheduler}"
        return lines, _loop(configuration, ("optimizer", "scheduler"))
    lines = _muon(configuration.optimizer, first="optimizer") + f"\nscheduler = {scheduler}"
    lines += f"\nrest_scheduler = {scheduler.replace('(optimizer', '(rest').replace('    optimizer,', '    rest,')}"
    return lines, _loop(configuration, ("optimizer", "rest", "scheduler", "rest_scheduler"))


def _arguments(chosen: Optimizer, names: tuple[str, ...]) -> str:
    values = {name: getattr(chosen, name) for name in names}
    if "beta1" in values:
        values = {"betas": (values.pop("beta1"), values.pop("beta2"))} | values
    return ", ".join(f"{name}={value!r}" for name, value in values.items())


def _loop(configuration: Configuration, steppers: tuple[str, ...]) -> str:
    return "\n".join(
        f"# {line}"
        for line in (
            "for batch in batches:  # STEPS of them",
            "    loss(model, batch).backward()",
            *(f"    {line}" for line in clipping(configuration)),
            *(f"    {stepper}.step()" for stepper in steppers),
            *(f"    {stepper}.zero_grad()" for stepper in steppers if "scheduler" not in stepper),
        )
    )
