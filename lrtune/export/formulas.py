"""A schedule's formula as plain Python, taken from its family's own source: `factor(step)` of any curve."""

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable
from typing import Any, cast

from lrtune.export.found import Found
from lrtune.schedules import Schedule
from lrtune.space import knobs

_FACTOR = '''\
WARMUP = {rise}  # of them
FLOOR = {floor!r}  # the factor never falls below it

{helpers}
def curve(u: float) -> float:
    """{sentence}"""
{body}


def factor(step: int) -> float:
    """The factor of PEAK at a step, counted from 0."""
    if step < WARMUP:
        raw = (step + 1) / WARMUP{top}
    else:
        raw = curve(min(step - WARMUP, STEPS - WARMUP) / (STEPS - WARMUP))
    return min(1.0, max(FLOOR, raw))
'''


def formula(cls: type[Schedule]) -> str:
    """A family's formula as one reads it: its own code over its knobs and the progress `u`."""
    text = "\n".join(ast.unparse(statement) for statement in _body(cls))
    return text.replace("math.", "").removeprefix("return ")


def constants(found: Found) -> str:
    """The two numbers that everything else refers to."""
    peak = found.configuration.learning_rate
    return (
        f"PEAK = {peak!r}  # the learning rate that the factor multiplies\nSTEPS = {found.steps}  # of the whole run\n"
    )


def factor(found: Found) -> str:
    """PEAK, STEPS and `factor(step)`, the same function to the last bit that the run followed."""
    family = found.family
    note = (
        "" if found.curve.family == found.configuration.schedule else " These are the stages that the winning run took."
    )
    body = [*_knob_lines(family), *(ast.unparse(statement) for statement in _body(type(family)))]
    return constants(found) + _FACTOR.format(
        rise=found.rise,
        top="" if found.top == 1.0 else f" * {found.top!r}",
        floor=found.curve.floor,
        helpers="".join(f"\n{inspect.getsource(helper)}\n" for helper in _helpers(type(family))),
        sentence=inspect.cleandoc(type(family).__doc__ or "") + note,
        body=textwrap.indent("\n".join(body), "    "),
    )


def imports(*parts: str, **modules: str) -> str:
    """The import lines: `math` where a part needs it, and the modules named."""
    needed = ["import math"] if any("math." in part for part in parts) else []
    return "\n".join([*needed, *(line for line in modules.values() if line)])


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
