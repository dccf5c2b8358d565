"""A configuration of which a job says only a part: the settings of the user's own script, or what to try first.

What is left out is filled in by `lrtune/search/asked.py`, when the job is admitted.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeAlias

from pydantic import BeforeValidator, Field, WithJsonSchema, model_serializer

from lrtune.optimizers import OPTIMIZERS, optimizer
from lrtune.schedules import FAMILIES, schedule
from lrtune.wire.configuration import Configuration, Strict, at_knob, named

RATE = Field(gt=0, le=1e3)
Part: TypeAlias = dict[str, Any]


def _part(tag: str, registry: Mapping[str, type], make: Callable[..., Any]) -> Any:
    """A wire type for the name of a schedule or an optimizer with some of its knobs, or just the name."""

    def read(value: Any) -> Part:
        part = dict(named(tag, registry)(value))
        given = {knob: found for knob, found in part.items() if knob != tag}
        try:
            make(part[tag], **given)
        except ValueError as error:
            raise at_knob(error, given) from None
        return {tag: part[tag], **given}

    name = {"type": "string", "enum": list(registry)}
    with_knobs = {"type": "object", "properties": {tag: name}, "required": [tag], "description": "knobs as in a job"}
    return (BeforeValidator(read), WithJsonSchema({"anyOf": [name, with_knobs]}))


if TYPE_CHECKING:
    OptimizerPart: TypeAlias = Part
    SchedulePart: TypeAlias = Part
else:
    OptimizerPart = Annotated[(Part, *_part("name", OPTIMIZERS, optimizer))]
    SchedulePart = Annotated[(Part, *_part("family", FAMILIES, schedule))]


class PartialConfiguration(Strict):
    """Some of a configuration, to be run first; what is left out is as in the job's baseline, inside its space."""

    optimizer: OptimizerPart | None = None
    learning_rate: Annotated[float, RATE] | None = None
    schedule: SchedulePart | None = None
    warmup: Annotated[float, Field(ge=0, le=0.9)] | None = None
    floor: Annotated[float, Field(ge=0, le=1)] | None = None
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    clip_value: Annotated[float, Field(gt=0)] | None = None

    @model_serializer(mode="plain")
    def _as_written(self) -> dict[str, Any]:
        return self.given()

    def given(self) -> dict[str, Any]:
        """What was said: of the clips null is something (none), of all else it is nothing."""
        clips = ("clip_norm", "clip_value")
        said = {name: getattr(self, name) for name in type(self).model_fields if name in self.model_fields_set}
        return {name: value for name, value in said.items() if value is not None or name in clips}

    @classmethod
    def of(cls, configuration: Configuration) -> Self:
        """The part that is all of a configuration."""
        return cls.model_validate(configuration.model_dump(mode="json"))


class OwnSettings(PartialConfiguration):
    """The user's script as it was, to compare the answer with: its rate, and what else it does."""

    learning_rate: Annotated[float, RATE]
