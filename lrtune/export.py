"""The answer as something to run: a PyTorch snippet, JSON, or CSV.

A schedule's formula is taken from its family's own source, so a new family needs no line here. A new format is one
more function in `_WRITERS`; keras, optax and transformers are still to come.
"""

import ast
import inspect
import json
import math
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

from lrtune.choices import Configuration
from lrtune.errors import Invalid
from lrtune.optimizers import Optimizer
from lrtune.results import Best, Trial
from lrtune.schedules import Curve, Schedule
from lrtune.space import knobs

MODEL = """\
# Your own model in place of this one:
model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))"""
LATER = ("keras", "optax", "transformers")
SPELLED = {"Sgd": "SGD", "Rmsprop": "RMSprop", "Adamw": "AdamW", "Nadam": "NAdam", "Radam": "RAdam"}  # as torch does


@dataclass(frozen=True, slots=True)
class Exported:
    """A file's text, what kind of file it is, and a name for it."""

    text: str
    media_type: str
    filename: str


def export(best: Best, trial: Trial, format: str) -> Exported:
    """The answer, and the trial that found it (with its reports), written in one of `FORMATS`."""
    if format not in _WRITERS:
        found = f"{format} is not available yet" if format in LATER else f"found the format {format!r}"
        detail = f"{found}; accepted is one of {', '.join(FORMATS)}"
        raise Invalid(detail, [{"pointer": "/format", "detail": detail}])
    return _WRITERS[format](best, trial)


def formula(cls: type[Schedule]) -> str:
    """A family's formula as one reads it: its own code over its knobs and the progress `u`."""
    text = "\n".join(ast.unparse(statement) for statement in _body(cls))
    return text.replace("math.", "").removeprefix("return ")


def recorded(best: Best, trial: Trial) -> Curve:
    """The curve that the trial followed: what its reports made of a schedule that looks at the loss."""
    sign = -1.0 if best.goal == "maximize" else 1.0
    reports = [(s, math.inf if v is None else sign * v) for s, v in trial.values(best.metric)]
    return best.configuration.curve.after(reports, best.steps)


def _pytorch(best: Best, trial: Trial) -> Exported:
    optimizers, loop = _optimizers(best.configuration)
    schedule = _schedule(best, recorded(best, trial))
    parts = [
        _provenance(best),
        *(["import math"] if "math." in schedule else []),
        "import torch",
        MODEL,
        schedule,
        optimizers,
        loop,
    ]
    return Exported("\n\n".join(parts) + "\n", "text/x-python", "learning_rate.py")


def _json(best: Best, trial: Trial) -> Exported:
    rates = [rate for _, rate in _rates(best, trial)]
    whole = best.model_dump(mode="json") | {"learning_rates": rates}
    return Exported(json.dumps(whole, indent=2) + "\n", "application/json", "learning_rate.json")


def _csv(best: Best, trial: Trial) -> Exported:
    lines = [f"{step},{rate!r}\n" for step, rate in _rates(best, trial)]
    return Exported("step,learning_rate\n" + "".join(lines), "text/csv", "learning_rate.csv")


def _rates(best: Best, trial: Trial) -> Iterator[tuple[int, float]]:
    factor = recorded(best, trial).over(best.steps)
    return ((step, best.configuration.learning_rate * factor(step)) for step in range(best.steps))


_WRITERS: dict[str, Callable[[Best, Trial], Exported]] = {"pytorch": _pytorch, "json": _json, "csv": _csv}
FORMATS = tuple(_WRITERS)


def _provenance(best: Best) -> str:
    """Where these numbers come from, as comments for whoever finds them in a year."""
    metric = best.metric.encode("unicode_escape").decode()  # a name must not be able to end the comment
    lines = [
        f"# Found by lrtune: trial {best.trial}, {best.full_runs:g} full runs of {best.steps} steps.",
        f"# {metric} {best.value:.6g}{_between(best.interval)} over {len(best.seeds)} seeds.",
    ]
    if best.baseline is not None and best.baseline.value is not None:
        lines.append(f"# Untuned baseline: {best.baseline.value:.6g}{_between(best.baseline.interval)}.")
    return "\n".join(lines)


def _between(interval: tuple[float, float] | None) -> str:
    return f" [{interval[0]:.6g}, {interval[1]:.6g}]" if interval else ""


# The schedule --------------------------------------------------------------------------------------------------------

_FACTOR = '''\
PEAK = {peak!r}  # the learning rate that the factor multiplies
STEPS = {steps}  # of the whole run
WARMUP = {rise}  # of them
FLOOR = {floor!r}  # the factor never falls below it

{helpers}
def curve(u: float) -> float:
    """{sentence}"""
{body}


def factor(step: int) -> float:
    """The factor of PEAK at a step, counted from 0."""
    if step < WARMUP:
        raw = (step + 1) / WARMUP
    else:
        raw = curve(min(step - WARMUP, STEPS - WARMUP) / (STEPS - WARMUP))
    return min(1.0, max(FLOOR, raw))
'''


def _schedule(best: Best, curve: Curve) -> str:
    rise = curve.rise(best.steps)
    family = curve.family.on_steps(best.steps - rise)
    note = "" if curve.family == best.configuration.schedule else " These are the stages that the winning run took."
    body = [*_knob_lines(family), *(ast.unparse(statement) for statement in _body(type(family)))]
    return _FACTOR.format(
        peak=best.configuration.learning_rate,
        steps=best.steps,
        rise=rise,
        floor=curve.floor,
        helpers="".join(f"\n{inspect.getsource(helper)}\n" for helper in _helpers(type(family))),
        sentence=inspect.cleandoc(type(family).__doc__ or "") + note,
        body=textwrap.indent("\n".join(body), "    "),
    )


class _Bare(ast.NodeTransformer):
    """`self.final` becomes `final`."""

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if isinstance(node.value, ast.Name) and node.value.id == "self":
            return ast.Name(node.attr, node.ctx)
        self.generic_visit(node)
        return node


def _body(cls: type[Schedule]) -> list[ast.stmt]:
    """The statements of a family's formula, over plain names."""
    function = cast(ast.FunctionDef, ast.parse(textwrap.dedent(inspect.getsource(cls.__call__))).body[0])
    documented = ast.get_docstring(function) is not None
    return [_Bare().visit(statement) for statement in function.body[documented:]]


def _names(cls: type[Schedule]) -> set[str]:
    return {node.id for statement in _body(cls) for node in ast.walk(statement) if isinstance(node, ast.Name)}


def _knob_lines(schedule: Schedule) -> list[str]:
    used = _names(type(schedule))
    return [f"{name} = {getattr(schedule, name)!r}" for name in knobs(type(schedule)) if name in used]


def _helpers(cls: type[Schedule]) -> list[Callable[..., Any]]:
    """The module's own functions that a formula calls."""
    around = vars(sys.modules[cls.__module__])
    named = (around.get(name) for name in sorted(_names(cls)))
    return [found for found in named if inspect.isfunction(found)]


# The optimizer -------------------------------------------------------------------------------------------------------

_MUON = """\
# As in the runs that found this: Muon for the weights of all linear layers but the last, AdamW for all else.
hidden = [part.weight for part in model.modules() if isinstance(part, torch.nn.Linear)][:-1]
others = [one for one in model.parameters() if all(one is not weight for weight in hidden)]
optimizer = torch.optim.Muon(hidden, lr=PEAK, {muon}, adjust_lr_fn="match_rms_adamw")
rest = torch.optim.AdamW(others, lr=PEAK, {adamw})
scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
rest_scheduler = torch.optim.lr_scheduler.LambdaLR(rest, factor)"""


def _optimizers(configuration: Configuration) -> tuple[str, str]:
    """The lines that build the optimizer and its scheduler, and a comment that shows the loop."""
    chosen = configuration.optimizer
    name = type(chosen).__name__
    if name == "Muon":
        muon = _arguments(chosen, ("momentum", "nesterov", "weight_decay"))
        lines = _MUON.format(muon=muon, adamw=_arguments(chosen, ("beta1", "beta2", "weight_decay", "eps")))
        return lines, _loop(configuration, ("optimizer", "rest", "scheduler", "rest_scheduler"))
    arguments = ", ".join(filter(None, ("model.parameters(), lr=PEAK", _arguments(chosen, tuple(knobs(type(chosen)))))))
    lines = f"optimizer = torch.optim.{SPELLED.get(name, name)}({arguments})\n"
    lines += "scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)"
    return lines, _loop(configuration, ("optimizer", "scheduler"))


def _arguments(chosen: Optimizer, names: tuple[str, ...]) -> str:
    values = {name: getattr(chosen, name) for name in names}
    if "beta1" in values:
        values = {"betas": (values.pop("beta1"), values.pop("beta2"))} | values
    return ", ".join(f"{name}={value!r}" for name, value in values.items())


def _loop(configuration: Configuration, steppers: tuple[str, ...]) -> str:
    clips = []
    if configuration.clip_norm is not None:
        clips.append(f"    torch.nn.utils.clip_grad_norm_(model.parameters(), {configuration.clip_norm!r})")
    if configuration.clip_value is not None:
        clips.append(f"    torch.nn.utils.clip_grad_value_(model.parameters(), {configuration.clip_value!r})")
    return "\n".join(
        f"# {line}"
        for line in (
            "for batch in batches:  # STEPS of them",
            "    loss(model, batch).backward()",
            *clips,
            *(f"    {stepper}.step()" for stepper in steppers),
            *(f"    {stepper}.zero_grad()" for stepper in steppers if "scheduler" not in stepper),
        )
    )
