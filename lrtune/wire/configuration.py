"""The wire types every other wire type is made of: strict objects, names for short, one point of a job's space.

The unions over families and optimizers are made from the registries in `schedules.py` and `optimizers.py`, so a new
family needs no line here.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    ValidationError,
    WithJsonSchema,
    create_model,
    model_serializer,
    model_validator,
)
from pydantic_core import CoreSchema, InitErrorDetails, PydanticCustomError

from lrtune.optimizers import LEARNING_RATE, OPTIMIZERS, Optimizer, optimizer
from lrtune.schedules import FAMILIES, Curve, Rising, Schedule, schedule
from lrtune.space import Axis, Choice, Knob, Numbers, kebab, knobs, rates, shown


class Strict(BaseModel):
    """A wire object: unknown fields and NaN are refused, nothing changes after it is made."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


def rejected(where: tuple[str | int, ...], sentence: str, value: object) -> ValidationError:
    """What a check of an object raises to point at one field below it."""
    # The sentence travels as a value, because braces in a template would be read as places to fill in.
    found = PydanticCustomError("rejected", "{sentence}", {"sentence": sentence})
    return ValidationError.from_exception_data("rejected", [InitErrorDetails(type=found, loc=where, input=value)])


def at_knob(error: ValueError, values: Mapping[str, object]) -> ValidationError:
    """The same error, pointing at the knob that its message opens with."""
    knob, _, sentence = str(error).partition(": ")
    return rejected((knob,), sentence, values.get(knob))


class OrName:
    """In JSON Schema: the object, or just its name."""

    def __init__(self, names: Iterable[str]) -> None:
        self.names = list(names)

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": "string", "enum": self.names}, handler(core)]}


def named(tag: str, names: Iterable[str]) -> Any:
    """A validator that takes `"cosine"` for `{"family": "cosine"}`, and says which names there are when it is none.

    Names are ours, in lower case; `"AdamW"`, as its paper and torch write it, is the same one.
    """
    known = list(names)

    def normal(value: Any) -> Any:
        given = {tag: value} if isinstance(value, str) else value
        if isinstance(given, Mapping) and isinstance(said := given.get(tag), str) and said.lower() in known:
            return {**given, tag: said.lower()}
        if isinstance(given, BaseModel):
            return given
        found = given.get(tag) if isinstance(given, Mapping) else given
        raise PydanticCustomError(
            "unknown_name", f"found the {tag} {shown(found)}; accepted is one of {', '.join(known)}"
        )

    return normal


def knob(kind: Knob) -> tuple[Any, Any]:
    """What makes `Any` the wire type of one knob: its own check, its own JSON Schema."""
    return BeforeValidator(kind.parse), WithJsonSchema(kind.schema())


class Searched(Strict):
    """A family or an optimizer as a job asks for it. Knobs left out take their own search range or default."""

    @model_serializer(mode="plain")
    def _as_written(self) -> dict[str, Any]:
        first = next(iter(type(self).model_fields))
        chosen = {name: getattr(self, name) for name in self.__pydantic_fields_set__}
        return {first: getattr(self, first)} | chosen

    def axes(self, cls: type) -> dict[str, Axis]:
        """The axes of every knob of `cls`."""
        defaults = {name: cls.__dataclass_fields__[name].default for name in knobs(cls)}  # type: ignore[attr-defined]
        return {name: kind.axis(getattr(self, name), defaults[name]) for name, kind in knobs(cls).items()}


class ScheduleSearch(Searched):
    """A schedule family to try, each knob fixed, ranged or left to its own range."""

    family: str

    @model_validator(mode="after")
    def _possible(self) -> Self:
        _refuse_impossible(self, FAMILIES[self.family])
        return self


class OptimizerSearch(Searched):
    """An optimizer to try; `learning_rate` is its peak rate, or the range of it."""

    name: str
    learning_rate: Annotated[Any, *knob(LEARNING_RATE)] = None

    @model_validator(mode="after")
    def _possible(self) -> Self:
        _refuse_impossible(self, OPTIMIZERS[self.name])
        return self

    def rate_axis(self) -> Axis:
        """The peak rates to try, on the √2 grid through the optimizer's usual rate."""
        cls = OPTIMIZERS[self.name]
        asked: Any = cls.rates if self.learning_rate is None else self.learning_rate
        if not isinstance(asked, tuple):
            return LEARNING_RATE.axis(asked, None)
        low, high = asked
        return Choice(rates(low, high, anchor=cls.usual), ends=(low, high))


def _refuse_impossible(search: Searched, cls: type) -> None:
    """Knobs that exclude one another are refused where the job is written, not in a trial: every corner is made."""
    given = {name: value for name in knobs(cls) if (value := getattr(search, name)) is not None}
    lists = {name for name, kind in knobs(cls).items() if isinstance(kind, Numbers)}
    options = [v if isinstance(v, tuple) and k not in lists else (v,) for k, v in given.items()]
    try:
        for corner in itertools.product(*options):
            cls(**dict(zip(given, corner, strict=True)))
    except ValueError as error:
        raise at_knob(error, given) from None


def _models(base: type[Searched], tag: str, registry: Mapping[str, type]) -> Any:
    """A discriminated union with one model for each member of a registry."""
    made = []
    for name, cls in registry.items():
        fields: dict[str, Any] = {tag: (Literal[name], name)}
        fields |= {field: (Annotated[Any, *knob(kind)], None) for field, kind in knobs(cls).items()}
        made.append(create_model(f"{cls.__name__}Search", __base__=base, __doc__=cls.__doc__, **fields))
    globals().update({model.__name__: model for model in made})  # where another process finds them
    union = reduce(or_, made)
    return Annotated[union, Discriminator(tag), BeforeValidator(named(tag, registry)), OrName(registry)]


if TYPE_CHECKING:
    AnySchedule: TypeAlias = ScheduleSearch
    AnyOptimizer: TypeAlias = OptimizerSearch
else:
    AnySchedule = _models(ScheduleSearch, "family", FAMILIES)
    AnyOptimizer = _models(OptimizerSearch, "name", OPTIMIZERS)


def _point(tag: str, registry: Mapping[str, type], make: Callable[..., Any]) -> Any:
    """A wire type for one schedule or optimizer: a plain mapping outside, the real object inside."""

    def read(value: Any) -> Any:
        if isinstance(value, Schedule | Optimizer):
            return value
        given = dict(named(tag, registry)(value))
        try:
            return make(given.pop(tag), **given)
        except ValueError as error:
            raise at_knob(error, given) from None

    options = [_point_schema(tag, name, cls) for name, cls in registry.items()]
    schema = WithJsonSchema({"oneOf": options, "discriminator": {"propertyName": tag}})
    return (BeforeValidator(read), PlainSerializer(lambda made: made.as_dict()), schema)


def _point_schema(tag: str, name: str, cls: type) -> dict[str, Any]:
    fields = {field: kind.point_schema() for field, kind in knobs(cls).items()}
    properties = {tag: {"type": "string", "const": name}} | fields
    return {
        "type": "object",
        "title": cls.__name__,
        "properties": properties,
        "required": [tag],
        "additionalProperties": False,
    }


if TYPE_CHECKING:
    SchedulePoint: TypeAlias = Schedule
    OptimizerPoint: TypeAlias = Optimizer
else:
    SchedulePoint = Annotated[(Any, *_point("family", FAMILIES, schedule))]
    OptimizerPoint = Annotated[(Any, *_point("name", OPTIMIZERS, optimizer))]


def rises(family: str) -> bool:
    """Whether a family rises by itself, so that it has no warm-up."""
    return issubclass(FAMILIES[family], Rising)


class Configuration(Strict):
    """One point of a job's space: everything that is searched. Rates are peaks; warm-up and floor are fractions."""

    optimizer: OptimizerPoint
    learning_rate: Annotated[float, Field(gt=0, le=1e3)]
    schedule: SchedulePoint
    warmup: Annotated[float, Field(ge=0, le=0.9)] = 0.0
    floor: Annotated[float, Field(ge=0, le=1)] = 0.0
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    clip_value: Annotated[float, Field(gt=0)] | None = None
    old_warmup: bool = False  # see `Curve`; said only where it is true

    @model_serializer(mode="wrap")
    def _without_old_warmup(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        shown = dict(written(self))
        if not self.old_warmup:
            del shown["old_warmup"]
        return shown

    @property
    def kind(self) -> tuple[str, str]:
        """The names of its optimizer and its schedule family: learning rates compare within one kind alone."""
        return kebab(type(self.optimizer)), kebab(type(self.schedule))

    @property
    def curve(self) -> Curve:
        """The factor of the peak rate over a run, warm-up and floor included."""
        return Curve(self.schedule, warmup=self.warmup, floor=self.floor, old_warmup=self.old_warmup)

    def learning_rates(self, steps: int) -> list[float]:
        """The learning rate of every step of a run of `steps`."""
        factor = self.curve.over(steps)
        return [self.learning_rate * factor(step) for step in range(steps)]
