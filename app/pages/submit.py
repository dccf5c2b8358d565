"""Submitting a job from a form, with its schedules' curves and its cost shown while the knobs move."""

import math
import secrets
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from pydantic import TypeAdapter, ValidationError
from sqlalchemy.orm import Session

from app import admission, catalogue, curves, plans, pointers, quotas
from app.addresses import root
from app.deps import MOST, Only, ReadTx, Tx, Who
from app.pages import job_clone, job_form
from app.pages.deps import Fields, Form, seen
from app.problems import invalid
from app.rendering import page
from lrtune.errors import Invalid
from lrtune.schedules import FAMILIES, WARMUP, Curve, schedule
from lrtune.space import Axis, Choice, Range
from lrtune.store import datasets, jobs
from lrtune.wire.configuration import AnySchedule, ScheduleSearch
from lrtune.wire.datasets import TAKEN_BY, DatasetSummary
from lrtune.wire.job import AdmittedJob, JobSpec
from lrtune.wire.results import TaskSummary

router = APIRouter(prefix="/submit")
STEPS, POINTS = 1000, 120  # of a previewed curve
_SEARCH: TypeAdapter[ScheduleSearch] = TypeAdapter(AnySchedule)


@router.get("")
def form(
    request: Request,
    tx: ReadTx,
    who: Who,
    only: Only,
    task: Annotated[str, Query(max_length=200)] = "",
    dataset: Annotated[str, Query(max_length=100)] = "",
    target: Annotated[str, Query(max_length=255)] = "",
    like: Annotated[list[str] | None, Query(alias="job", max_length=20)] = None,
) -> Response:
    """The form, as its defaults have it, or as a job has it that is to be cloned."""
    choices = Choices(tx, who.person, only)
    if like:
        return _shown(request, tx, choices, _cloned(tx, choices, like[0], only), {}, like=like[0])
    given = {"/task/params/dataset": [dataset], "/task/params/target": [target]}
    fields = job_form.usual(_known(tx, task)) | given
    return _shown(request, tx, choices, fields, {})


@router.get("/params")
def params(
    request: Request,
    tx: ReadTx,
    who: Who,
    only: Only,
    task: Annotated[str, Query(alias="/task/name", max_length=200)] = "",
) -> Response:
    """The part of the form that asks for a task's own parameters."""
    name = _known(tx, task)
    known: dict[str, Any] = {"task": _task(tx, name), "datasets": Choices(tx, who.person, only).of(name)}
    return page(request, "parts/params.html", fields=job_form.usual(name), wrong={}, **known)


class Choices:
    """The uploaded datasets that somebody may choose among, by what a job calls them."""

    def __init__(self, tx: Session, mine: str, only: str | None) -> None:
        self._found = datasets.page(tx, only=only, limit=MOST, cursor=None).items
        self._mine = mine

    def of(self, task: str) -> dict[str, str] | None:
        """Those of a task, each with words about it; none where the task reads no data of the user's."""
        kinds = TAKEN_BY.get(task)
        return None if kinds is None else {self._name(one): _words(one) for one in self._found if one.kind in kinds}

    def named(self, file: str) -> str:
        """What a job calls the dataset of a file; the file where there is none."""
        return next((self._name(one) for one in self._found if one.file == file), file)

    def _name(self, dataset: DatasetSummary) -> str:
        """Its name, or its id where the name may be another's."""
        return dataset.name if dataset.owner == self._mine else dataset.id


def _words(dataset: DatasetSummary) -> str:
    size = f"{dataset.rows:,} row{'s' * (dataset.rows != 1)}"
    size += f", {dataset.columns} column{'s' * (dataset.columns > 1)}" if dataset.columns else ""
    return f"{dataset.name} ({size})"


def _cloned(tx: Session, choices: Choices, job_id: str, only: str | None) -> Fields:
    """The form as a job has it. Raises UnknownJob."""
    job = seen(tx, job_id, only)
    task = job.spec.task.name
    if _known(tx, task) != task:
        detail = f"the job's task {task} is not here any more: no worker has announced it"
        raise invalid([{"pointer": "/task/name", "detail": detail}])
    params = _task(tx, task).params
    return job_clone.fields(job.spec, params, named=choices.named)


def _known(tx: Session, name: str) -> str:
    names = [one.name for one in catalogue.tasks(tx)]
    return name if name in names else names[0]


def _task(tx: Session, name: str) -> TaskSummary:
    return next(one for one in catalogue.tasks(tx) if one.name == name)


def _shown(
    request: Request,
    tx: Session,
    choices: Choices,
    fields: Fields,
    wrong: Mapping[str, str],
    *,
    status: int = 200,
    like: str = "",
) -> Response:
    task = _task(tx, _known(tx, fields["/task/name"][0]))
    return page(
        request,
        "submit.html",
        status=status,
        fields=fields,
        wrong=wrong,
        tasks=catalogue.tasks(tx),
        task=task,
        datasets=choices.of(task.name),
        like=like,
        optimizers=job_form.picks("optimizers"),
        schedules=job_form.picks("schedules"),
        common=job_form.common(),
        samplers=job_form.SAMPLERS,
        pruners=job_form.PRUNERS,
        names={field: list(registry) for field, (_, registry) in job_form.LISTS.items()},
        once=secrets.token_urlsafe(16),  # a second click on the same form does not make a second job
    )


@router.post("")
def submit(request: Request, tx: Tx, who: Who, only: Only, fields: Form) -> Response:
    """Queue the job; a form with mistakes comes back with a word at each."""
    made = _made(tx, fields)
    try:
        admitted = _admitted(request, tx, made, hold=True, mine=who.person, only=only)
        once, allow = fields.get("once", [""])[0], partial(quotas.admit, tx, request.app.state.settings, who, admitted)
        key = f"form-{once[:64]}" if once else None
        job, _ = jobs.create(tx, admitted, owner=who.person, only=only, idempotency_key=key, allow=allow)
    except Invalid as error:
        choices = Choices(tx, who.person, only)
        return _shown(request, tx, choices, fields, job_form.named(error.errors, made), status=422)
    return RedirectResponse(f"{root(request)}/jobs/{job.id}", 303)


@router.post("/check")
def check(request: Request, tx: ReadTx, who: Who, only: Only, fields: Form) -> Response:
    """What the form amounts to so far: the job, its cost, its baseline, its schedules' curves, and what is wrong."""
    made = _made(tx, fields)
    answer: dict[str, Any] = {"job": made, "curves": _curves(made), "wrong": {}, "cost": None, "baseline": ""}
    try:
        admitted = _admitted(request, tx, made, hold=False, mine=who.person, only=only)
        answer |= {"cost": plans.cost(admitted).model_dump(), "baseline": plans.against(admitted)}
    except Invalid as error:
        answer["wrong"] = job_form.named(error.errors, made)
    return JSONResponse(answer)


def _made(tx: Session, fields: Fields) -> dict[str, Any]:
    name = _known(tx, fields.get("/task/name", [""])[0])
    return job_form.job(fields, _task(tx, name).params)


def _admitted(
    request: Request, tx: Session, made: Mapping[str, Any], *, hold: bool, mine: str, only: str | None
) -> AdmittedJob:
    """The job that the form amounts to. Raises Invalid."""
    try:
        spec = JobSpec.model_validate(made)
    except ValidationError as error:
        below = [{**one, "loc": ("body", *one["loc"])} for one in error.errors()]
        raise invalid(pointers.rejections(below, made, pointers.schema_of(JobSpec))) from None
    settings = request.app.state.settings
    admission.require_webhooks(spec, settings)
    return admission.admit(tx, spec, settings.data_dir, hold=hold, mine=mine, only=only)


def _curves(made: Mapping[str, Any]) -> dict[str, list[list[tuple[float, float]]]]:
    """Each schedule's curve with its knobs low, in the middle and high; none where a knob is wrong."""
    rise = _middle(made.get("warmup"))
    found = {}
    for one in made.get("schedules", ()):
        name = one if isinstance(one, str) else one["family"]
        found[name] = _family(one, rise)
    return found


def _middle(warmup: Any) -> float:
    """The warm-up that previews show."""
    try:
        axis = WARMUP.axis(WARMUP.parse(warmup) if warmup is not None else None, 0.0)
    except ValueError:
        return 0.0
    return float(_at(axis, 0.5))


def _family(one: Any, rise: float) -> list[list[tuple[float, float]]]:
    try:
        search = _SEARCH.validate_python(one)
        axes = search.axes(FAMILIES[search.family])
        made = [schedule(search.family, **{n: _at(axis, place) for n, axis in axes.items()}) for place in (0.5, 0, 1)]
    except ValueError:
        return []
    distinct = list(dict.fromkeys(made))
    return [_points(Curve(family, warmup=rise)) for family in distinct]


def _at(axis: Axis, place: float) -> Any:
    """A value of an axis: at its low end for 0, its high end for 1."""
    if isinstance(axis, Range):
        between = axis.low + place * (axis.high - axis.low)
        value = axis.low * (axis.high / axis.low) ** place if axis.log else between
        return round(value) if axis.whole else value
    if isinstance(axis, Choice):
        return axis.options[math.ceil(place * (len(axis.options) - 1))] if place else axis.options[0]
    return axis.value


def _points(curve: Curve) -> list[tuple[float, float]]:
    drawn: Sequence[tuple[int, float]] = curves.by_step(curve, 1.0, steps=STEPS, points=POINTS)
    return [(step / STEPS, round(rate, 4)) for step, rate in drawn]
