"""The job: what a user submits, what is stored and what the search reads. There are no mirror classes.

The smallest job is `{"task": "digits"}`; every other field has a default that a careful engineer would have chosen.
A new field of a job goes here.
"""

import json
import math
import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from lrtune.optimizers import OPTIMIZERS
from lrtune.schedules import FAMILIES, FLOOR, WARMUP
from lrtune.space import Number, Space
from lrtune.wire.configuration import AnyOptimizer, AnySchedule, Configuration, Strict, knob, rejected
from lrtune.wire.partial import OwnSettings, PartialConfiguration
from lrtune.wire.strategies import WARM_STARTED, CurveSearch, Search

CLIP = Number(0.0, 1e9, log=True, above=True, optional=True)
WARM_START_JOBS = 10  # that one job may learn from
TRIES = 100  # configurations that a job may ask for
EXTERNAL = "external"  # the task of those who train in a loop of their own; workers leave its jobs alone
DEFAULT_SCHEDULES = ("cosine", "linear", "wsd", "one-cycle", "step", "exponential", "inverse-sqrt", "constant")


def _storable(params: dict[str, Any]) -> dict[str, Any]:
    """Parameters that every database takes and every answer can say again."""
    for name, value in params.items():
        if sentence := _unstorable(name) or _unstorable(value):
            raise rejected((name,), sentence, value)
    return params


def _unstorable(value: object) -> str:
    """What is wrong with a value that a database could not keep, or an answer not say."""
    try:
        written = json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except UnicodeEncodeError:
        return "found half a surrogate pair; accepted are whole characters"
    except ValueError:
        return "found a number that is not finite; accepted are finite ones"
    return "found the character NUL; accepted is text without it" if b"\\u0000" in written.replace(rb"\\", b"") else ""


JobOrder = Literal["newest", "oldest", "name", "task", "owner", "state", "finished"]  # of a list of jobs


class TaskSpec(Strict):
    """The training problem to tune, and its parameters; `GET /v1/tasks` lists both."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    params: Annotated[dict[str, Any], AfterValidator(_storable)] = {}
    command: Annotated[bool, Field(exclude_if=lambda found: not found)] = False
    """Filled in: whether a command of the workers' trains it, as `GET /v1/tasks` says."""


def _ends(value: object) -> object:
    """The lowest and the highest value of a metric as a pair, if the one lies below the other."""
    pair = tuple(value) if isinstance(value, list | tuple) else ()
    numbers = [end for end in pair if isinstance(end, float | int)]
    if len(pair) != 2 or pair == (None, None) or (len(numbers) == 2 and numbers[0] >= numbers[1]):
        sentence = "accepted is [lowest, highest], with null for the one that there is not, such as [0, null]"
        raise PydanticCustomError("range", sentence)
    return pair


def _goal(value: object) -> object:
    """A goal in any case; what is none is left as it was written, to be quoted."""
    return value.lower() if isinstance(value, str) and value.lower() in ("minimize", "maximize") else value


Goal = Annotated[Literal["minimize", "maximize"], BeforeValidator(_goal)]
Bound = Annotated[float, Field(allow_inf_nan=False)]
MetricRange = Annotated[tuple[Bound | None, Bound | None], BeforeValidator(_ends)]


LARGEST = 1e60  # of a metric, in size: the squares of squares of larger ones are no numbers any more


def usable(value: float) -> bool:
    """Whether a metric says how good a run is: a number, and not one that only a run which diverged has."""
    return abs(value) <= LARGEST


class Metric(Strict):
    """What is optimised: the value of a metric at the end of the run.

    `range` has the lowest and the highest value that it can have, [0, null] for a cross entropy, [0, 1] for an
    accuracy. It is null where that is not known, and nothing is taken for impossible then.
    """

    name: Annotated[str, StringConstraints(min_length=1, max_length=100)]
    goal: Goal | None = None
    range: MetricRange | None = None

    @property
    def sign(self) -> float:
        """1 when lower is better, -1 when higher is: sign * value is always to be minimised."""
        return -1.0 if self.goal == "maximize" else 1.0

    @property
    def limits(self) -> tuple[float, float]:
        """The lowest and the highest value, infinite where there is none."""
        low, high = self.range or (None, None)
        return -math.inf if low is None else low, math.inf if high is None else high

    @property
    def from_zero(self) -> bool:
        """Whether zero is an end of its range: only then does a percentage of it say anything (a ratio scale)."""
        return 0.0 in self.limits


class Objective(Metric):
    """A metric whose goal is known."""

    goal: Goal


class Horizon(Strict):
    """How long the run is that the user will do for real: optimizer steps, or epochs of the task's data."""

    steps: Annotated[int, Field(ge=2, le=100_000_000)] | None = None
    epochs: Annotated[float, Field(gt=0, le=100_000)] | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.steps is None) == (self.epochs is None):
            raise PydanticCustomError("horizon", 'accepted is {"steps": 2000} or {"epochs": 5}: one of the two')
        return self


LEAST_RUNS = 2  # full runs that search: the baseline, and one other run to its end


class Budget(Strict):
    """When the search ends: at the first of these. Confirming the best few comes on top; the plan shows both."""

    full_runs: Annotated[float, Field(gt=0, le=100_000)] | None = 20.0
    trials: Annotated[int, Field(ge=1, le=100_000)] | None = None
    seconds: Annotated[float, Field(gt=0, le=1e9)] | None = None

    @model_validator(mode="after")
    def _some(self) -> Self:
        if self.full_runs is None and self.trials is None and self.seconds is None:
            raise PydanticCustomError(
                "budget", "accepted is at least one of full_runs, trials and seconds that is not null"
            )
        return self

    @property
    def most_runs(self) -> float | None:
        """The most full runs that the search can take; None when only time bounds it."""
        bounds = [float(bound) for bound in (self.full_runs, self.trials) if bound is not None]
        return min(bounds, default=None)

    @property
    def baseline_alone(self) -> str:
        """What is to be said where the baseline takes up all of it; nothing where there is room for a search."""
        if self.full_runs is None or self.full_runs >= LEAST_RUNS:
            return ""
        return (
            f"the baseline is all that is trained: it takes the first full run, and no other run to its end fits into "
            f"budget.full_runs, {self.full_runs:g}; {LEAST_RUNS} are the least that search"
        )


FINALISTS = 3  # of the candidates, for whose further seeds there is room: the others have one


class Confirm(Strict):
    """How the answer is chosen: at most `top` configurations run again over at most `seeds` fresh seeds; 0: none."""

    top: Annotated[int, Field(ge=0, le=100)] = 3
    seeds: Annotated[int, Field(ge=0, le=100)] = 3

    @property
    def runs(self) -> int:
        """The most full runs that confirming can take, the baseline's among them."""
        if not self.top or not self.seeds:
            return 0
        return self.top + min(self.top, FINALISTS) * (self.seeds - 1) + self.seeds


class Training(Strict):
    """How every trial is trained, the same for all of them, because only then can they be compared."""

    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    accumulate: Annotated[int, Field(ge=1, le=4096)] = 1  # of the task's batches for one step
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None  # decay of an average of the weights, which is then measured
    compile: Literal["never", "auto"] = "never"  # auto: by torch, where that pays on the first steps
    devices: Annotated[int, Field(ge=1, le=64)] = 1  # for each trial: of one host, or a fleet worker's own
    sharded: Annotated[bool, Field(exclude_if=lambda found: not found)] = False  # weights are spread over the devices
    determinism: Annotated[
        Literal["exact", "preferred", "off"] | None, Field(exclude_if=lambda found: found is None)
    ] = None  # None: as the worker's device has it, exact on a CPU and preferred on a GPU
    matmul: Annotated[Literal["highest", "high", "medium"], Field(exclude_if=lambda found: found == "highest")] = (
        "highest"  # of float32 products, as torch.set_float32_matmul_precision says: below it TF32, or bfloat16
    )

    @model_validator(mode="after")
    def _shards(self) -> Self:
        if self.sharded and self.devices == 1:
            raise rejected(("sharded",), "found true over 1 device; accepted is false, or devices from 2 on", True)
        if self.sharded and self.ema is not None:
            sentence = f"found {self.ema}; an average is of whole weights, so accepted is null, or sharded false"
            raise rejected(("ema",), sentence, self.ema)
        return self


class Resources(Strict):
    """What a job needs of a worker: its device's kind, as `GET /v1/workers` says, and at least so much memory of it."""

    device: Annotated[str, StringConstraints(pattern=r"^[a-z]{1,16}$")] | None = None
    memory_gb: Annotated[float, Field(strict=False, gt=0, le=1e6)] | None = None

    def __str__(self) -> str:
        """In words."""
        memory = "" if self.memory_gb is None else f"{self.memory_gb:g} GB"
        return " with ".join(filter(None, [self.device and f"the device {self.device}", memory]))


# PostgreSQL keeps no NUL in text; a colon parts a tag's key from its value in `GET /v1/jobs?tag=`.
Text = Annotated[str, StringConstraints(max_length=200, pattern=r"^[^\x00]*$")]
Tag = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^:\x00]+$")]


def _warm_start(value: object) -> object:
    """The value, if it names jobs, asks for all that fit, or declines."""
    ids = value if isinstance(value, list | tuple) else []
    named = value == ids and len(ids) <= WARM_START_JOBS and all(isinstance(one, str) for one in ids)
    if isinstance(value, bool) or named:
        return value
    raise PydanticCustomError(
        "warm_start", f"accepted is true, false, or a list of at most {WARM_START_JOBS} ids of jobs"
    )


def _shorter(value: object) -> object:
    """The value, if it is a whole number of steps or a share of the horizon."""
    number = value if isinstance(value, int | float) and not isinstance(value, bool) else 0
    if 0 < number < 1 or (2 <= number <= 100_000_000 and number == int(number)):
        return number if number < 1 else int(number)
    raise PydanticCustomError("horizons", "accepted are steps such as 500, or shares of the horizon such as 0.25")


def _address(url: str) -> str:
    """An address that can be told of a job's end."""
    found = re.fullmatch(r"https?://(?P<host>[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?(/[\x21-\x7e]*)?", url)
    if found is None:
        raise ValueError("accepted is an address such as https://example.org/hooks/lrtune, without a user or password")
    return url


class JobSpec(Strict):
    """One request to tune a task. The smallest is `{"task": "digits"}`."""

    model_config = ConfigDict(serialize_by_alias=True)  # `try` is no name that Python lets a field have

    name: Text = ""
    task: Annotated[TaskSpec, BeforeValidator(lambda v: {"name": v} if isinstance(v, str) else v)]
    metric: Metric | None = None
    horizon: Horizon | None = None
    horizons: Annotated[
        list[Annotated[int | float, BeforeValidator(_shorter)]], Field(max_length=5, exclude_if=lambda found: not found)
    ] = []
    """Shorter ones, in steps or as shares of the horizon, over which some runs show how the best rate moves."""
    optimizers: Annotated[list[AnyOptimizer], Field(min_length=1, max_length=50)] = Field(
        ["adamw"], validate_default=True
    )
    schedules: Annotated[list[AnySchedule], Field(min_length=1, max_length=50)] = Field(
        list(DEFAULT_SCHEDULES), validate_default=True
    )
    warmup: Annotated[Any, *knob(WARMUP)] = (0.0, 0.1)
    floor: Annotated[Any, *knob(FLOOR)] = 0.0
    clip_norm: Annotated[Any, *knob(CLIP)] = 1.0
    clip_value: Annotated[Any, *knob(CLIP)] = None
    baseline: OwnSettings | None = None
    try_: Annotated[list[PartialConfiguration], Field(alias="try", max_length=TRIES)] = []
    training: Training = Training()
    search: Search = Search()
    warm_start: Annotated[bool | list[str], BeforeValidator(_warm_start)] = False
    budget: Budget = Budget()
    confirm: Confirm = Confirm()
    priority: Annotated[int, Field(ge=-100, le=100, exclude_if=lambda found: found == 0)] = 0  # of its owner's jobs
    resources: Annotated[Resources, Field(exclude_if=lambda found: found == Resources())] = Resources()
    tags: Annotated[dict[Tag, Text], Field(max_length=50)] = {}
    webhook: Annotated[str, Field(max_length=2000), AfterValidator(_address)] | None = None

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        for field, names in (
            ("optimizers", [one.name for one in self.optimizers]),
            ("schedules", [one.family for one in self.schedules]),
        ):
            for place, name in enumerate(names):
                if name in names[:place]:
                    raise rejected((field, place), f"found {name} twice; accepted is each name once", name)
        return self

    @model_validator(mode="after")
    def _go_together(self) -> Self:
        for one in self.optimizers:
            families, found = OPTIMIZERS[one.name].families, [schedule.family for schedule in self.schedules]
            if families is not None and not set(families) & set(found):
                sentence = f"{one.name} goes with {', '.join(families)} alone, so accepted is a list that has it, too"
                raise rejected(("schedules",), f"found {', '.join(found)}; {sentence}", found)
            if families is not None and self.training.ema is not None:
                sentence = f"found {self.training.ema}; {one.name} averages the weights itself, so accepted is null"
                raise rejected(("training", "ema"), sentence, self.training.ema)
        return self

    @model_validator(mode="after")
    def _able_to_shard(self) -> Self:
        asked: dict[tuple[str | int, ...], str] = {
            ("optimizers", at): one.name for at, one in enumerate(self.optimizers)
        }
        if self.baseline is not None and self.baseline.optimizer is not None:
            asked["baseline", "optimizer"] = self.baseline.optimizer["name"]
        for where, name in asked.items() if self.training.sharded else ():
            if why := OPTIMIZERS[name].unsharded:
                able = ", ".join(name for name, found in OPTIMIZERS.items() if not found.unsharded)
                raise rejected(where, f"found {name}, which {why}; with training.sharded accepted are {able}", name)
        return self

    @model_validator(mode="after")
    def _able_to_learn(self) -> Self:
        kind = self.search.sampler
        if self.warm_start and not isinstance(kind, WARM_STARTED):
            names = ", ".join(one.model_fields["name"].default for one in WARM_STARTED)
            sentence = f"the sampler {kind.name} does not learn from earlier jobs; those that do are {names}"
            raise rejected(("warm_start",), sentence, self.warm_start)
        return self

    @model_validator(mode="after")
    def _shorter_horizons(self) -> Self:
        kind, steps = self.search.sampler, self.horizon.steps if self.horizon else None
        if self.horizons and not isinstance(kind, CurveSearch):
            sentence = f"the sampler {kind.name} compares runs over one horizon alone; the one that knows more is curve"
            raise rejected(("horizons",), sentence, self.horizons)
        for place, one in enumerate(self.horizons):
            if steps is not None and one >= steps:
                sentence = f"found {one}; accepted are fewer steps than the horizon's {steps}"
                raise rejected(("horizons", place), sentence, one)
        return self

    def shorter(self, steps: int) -> list[int]:
        """The horizons that it lists, in steps, longest first, where its own horizon is one of `steps`."""
        found = {int(one) if one >= 1 else round(one * steps) for one in self.horizons}
        return sorted((one for one in found if 2 <= one < steps), reverse=True)

    @property
    def external(self) -> bool:
        """Whether the user's own loop trains: runs without a pause, because nothing of them is kept to be resumed."""
        return self.task.name == EXTERNAL

    @property
    def over_http(self) -> bool:
        """Whether its trials are handed out and reported over HTTP: to a loop of the user's own, or to a command."""
        return self.external or self.task.command

    def space(self) -> Space:
        """Everything this job may try, each knob with the axis it stands for."""
        return Space(
            optimizers={
                o.name: {"learning_rate": o.rate_axis(), **o.axes(OPTIMIZERS[o.name])} for o in self.optimizers
            },
            schedules={s.family: s.axes(FAMILIES[s.family]) for s in self.schedules},
            common={
                "warmup": WARMUP.axis(self.warmup, 0.0),
                "floor": FLOOR.axis(self.floor, 0.0),
                "clip_norm": CLIP.axis(self.clip_norm, None),
                "clip_value": CLIP.axis(self.clip_value, None),
            },
        )

    def allows(self, configuration: Configuration) -> bool:
        """Whether a configuration lies in the space of this job as far as its optimizer, family and rate go."""
        return self.space().allows(*configuration.kind, configuration.learning_rate)


class AdmittedJob(JobSpec):
    """A job that passed admission: what it left to its task is filled in, so its metric and its horizon are known.

    Stored jobs are of this type. A horizon in epochs becomes steps once a worker has opened the task.
    """

    metric: Objective
    horizon: Horizon

    @property
    def most_runs(self) -> float | None:
        """The most full runs that it can take, its confirmation included; None when only time bounds it."""
        search = self.budget.most_runs
        return None if search is None else search + self.confirm.runs
