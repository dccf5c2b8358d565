"""The catalogue of schedules and optimizers, and the curve of any schedule."""

import dataclasses
from typing import Annotated, Any

from fastapi import APIRouter
from pydantic import Field, WithJsonSchema

from app import curves
from app.auth import Guarded
from app.problems import problems
from lrtune import errors, optimizers
from lrtune.export import formula
from lrtune.optimizers import OPTIMIZERS
from lrtune.schedules import FAMILIES, Curve, Schedule
from lrtune.space import knobs
from lrtune.wire.configuration import OrName, SchedulePoint, Strict
from lrtune.wire.results import Result

router = APIRouter(route_class=Guarded, prefix="/v1/schedules", tags=["catalogue"])


# JSON has no tuples, so a list is taken for one; its numbers are as strict as all others.
Step = Annotated[int, Field(ge=0, strict=True)]
Seen = Annotated[tuple[Step, Annotated[float, Field(strict=True)] | None], Field(strict=False)]
# Pairs are described as lists of two numbers: many readers of OpenAPI stumble over `prefixItems`.
Pairs = Annotated[
    list[tuple[int, float]],
    WithJsonSchema(
        {
            "type": "array",
            "items": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
        }
    ),
]


class ScheduleInfo(Result):
    """A family: what it does, its knobs with what they take, and its formula over the progress `u`."""

    family: str
    sentence: str
    formula: str
    knobs: dict[str, dict[str, Any]]


class OptimizerInfo(Result):
    """An optimizer: its usual rate, the rates searched by default, the only schedules for it (null: any), its knobs."""

    name: str
    sentence: str
    usual: float
    rates: tuple[float, float]
    schedules: tuple[str, ...] | None = None
    knobs: dict[str, dict[str, Any]]


class Catalogue(Result):
    """Everything that can be searched."""

    items: list[ScheduleInfo]
    optimizers: list[OptimizerInfo]


class Preview(Strict):
    """A schedule to draw. `reports` are pairs [step, metric] (lower is better) for one that looks at the loss.

    A metric that is null was not measured, or was not finite: such a report is skipped.
    """

    schedule: Annotated[SchedulePoint, OrName(FAMILIES)]
    steps: Annotated[int, Field(ge=2, le=1_000_000)] = 1000
    learning_rate: Annotated[float, Field(gt=0, le=1e3)] = 1.0
    warmup: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    floor: Annotated[float, Field(ge=0, le=1)] = 0.0
    points: Annotated[int, Field(ge=2, le=2000)] = 200
    reports: Annotated[list[Seen], Field(max_length=10_000)] = []


class Previewed(Result):
    """The curve: [step, learning rate] at evenly thinned steps."""

    schedule: dict[str, Any]
    steps: int
    learning_rate: float
    curve: Pairs


@router.get("", summary="List schedules", responses=problems())
def catalogue() -> Catalogue:
    """Every family with its knobs, ranges and formula; and every optimizer."""
    return Catalogue(
        items=[_schedule(name, cls) for name, cls in FAMILIES.items()],
        optimizers=[
            OptimizerInfo(name=name, sentence=(cls.__doc__ or "").strip(), **optimizers.catalogue(cls))
            for name, cls in OPTIMIZERS.items()
        ],
    )


@router.post("/preview", summary="Draw a schedule", responses=problems(errors.BadRequest))
def preview(asked: Preview) -> Previewed:
    """The learning rate of any schedule at each step of a run."""
    curve = Curve(asked.schedule, warmup=asked.warmup, floor=asked.floor).after(asked.reports, asked.steps)
    return Previewed(
        schedule=asked.schedule.as_dict(),
        steps=asked.steps,
        learning_rate=asked.learning_rate,
        curve=curves.by_step(curve, asked.learning_rate, steps=asked.steps, points=asked.points),
    )


def _schedule(name: str, cls: type[Schedule]) -> ScheduleInfo:
    return ScheduleInfo(family=name, sentence=(cls.__doc__ or "").strip(), formula=formula(cls), knobs=_knobs(cls))


def _knobs(cls: type[Schedule]) -> dict[str, dict[str, Any]]:
    defaults = {field.name: field.default for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    return {
        name: {"schema": knob.schema(), "default": defaults[name], "search": getattr(knob, "search", None)}
        for name, knob in knobs(cls).items()
    }
