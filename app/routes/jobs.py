"""Jobs: submit, plan, list, read, and the verbs that change one."""

import hashlib
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Body, Depends, Header, Query, Request, Response, status

from app import admission, plans, quotas, table_checks
from app.addresses import root
from app.auth import Guarded
from app.deps import PAGE, JobId, Limit, Only, Owner, ReadTx, Tx, Who, remember_body, turns
from app.problems import problems
from app.turns import one_by_one
from lrtune import errors
from lrtune.store import Database, budgets, jobs, listing, lookup, warm_start
from lrtune.wire.configuration import Strict
from lrtune.wire.job import Budget, JobOrder, JobSpec
from lrtune.wire.listing import JobPage
from lrtune.wire.results import Job, JobState, Plan, Result

router = APIRouter(route_class=Guarded, prefix="/v1/jobs", tags=["jobs"])
LOCATION = {"Location": {"description": "The job's own path.", "schema": {"type": "string"}}}
ETAG = {"ETag": {"description": "Changes whenever the job does.", "schema": {"type": "string"}}}
VERB: dict[str, Any] = {  # what changes a job that is there
    "status_code": status.HTTP_202_ACCEPTED,
    "responses": problems(errors.UnknownJob, errors.NotYours, errors.JobFinished, errors.Unavailable),
}
EXAMPLES: dict[str, Any] = {
    "the smallest": {"value": {"task": "digits"}},
    "a number fixes, a pair is a range, a list of names is a choice": {
        "value": {
            "task": {"name": "digits", "params": {"batch_size": 64}},
            "horizon": {"steps": 960},
            "optimizers": ["adamw", {"name": "sgd", "momentum": 0.9, "learning_rate": [1e-3, 1.0]}],
            "schedules": ["cosine", {"family": "wsd", "decay": [0.1, 0.8]}, {"family": "step", "gamma": 0.1}],
            "budget": {"full_runs": 10},
            "tags": {"team": "risk"},
        }
    },
}


class Extension(Strict):
    """A new budget, in totals: sending it twice changes nothing more."""

    budget: Budget


Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[\x21-\x7e]+$",
        description="Any name of your own for this request: sent again with it, the job is not made twice.",
    ),
]

ValidateOnly = Annotated[bool, Query(description="Check everything, store nothing, and answer with the plan.")]


async def _in_turn(request: Request, validate_only: ValidateOnly = False) -> AsyncIterator[Database]:
    """The database, in turn with those who write; for a plan, which nobody has to wait for, with those who read."""
    async with request.app.state.reading if validate_only else request.app.state.writing:
        yield request.app.state.database


@router.post(
    "",
    status_code=status.HTTP_201_CREATED,
    summary="Submit a job",
    response_model=Job,
    dependencies=[Depends(remember_body)],
    responses={
        **problems(errors.BadRequest, errors.IdempotencyKeyReused, errors.Unavailable),
        200: {
            "model": Job | Plan,
            "description": "The job that this key made before; or the plan, where one was asked.",
        },
        201: {"description": "The job, queued.", "headers": LOCATION},
    },
)
def submit(
    spec: Annotated[JobSpec, Body(openapi_examples=EXAMPLES)],
    request: Request,
    database: Annotated[Database, Depends(_in_turn, scope="function")],
    who: Who,
    only: Only,
    idempotency_key: Key = None,
    validate_only: ValidateOnly = False,
) -> Response:
    """Queue a tuning job. The smallest is `{"task": "digits"}`; with `validate_only`, see what a job would do."""
    settings = request.app.state.settings
    data_dir, mine = settings.data_dir, who.person
    admission.require_webhooks(spec, settings)
    if validate_only:
        with database.read() as tx:
            admitted = admission.admit(tx, spec, data_dir, hold=False, mine=mine, only=only)
            admitted = warm_start.resolved(tx, admitted, only=only)
            earlier = warm_start.read(tx, admitted)
            notes = [*admission.unseen(admitted, data_dir), *table_checks.notes(tx, admitted, data_dir)]
        return _json(plans.plan(admitted, earlier, notes))  # no transaction is open while the search thinks
    if "dataset" in spec.task.params:  # files are read while others may write; the checks below know what they hold
        with database.read() as tx:
            admission.admit(tx, spec, data_dir, hold=False, mine=mine, only=only)
    with database.write() as tx:
        admitted = admission.admit(tx, spec, data_dir, mine=mine, only=only)
        allow = partial(quotas.admit, tx, settings, who, admitted)
        job, new = jobs.create(tx, admitted, owner=mine, only=only, idempotency_key=idempotency_key, allow=allow)
    return _json(job, 201 if new else 200, {"Location": f"{root(request)}/v1/jobs/{job.id}"})


def _json(answer: Result, code: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(answer.model_dump_json(), code, headers=headers, media_type="application/json")


@router.get("", summary="List jobs", responses=problems(errors.Unavailable))
def page(
    tx: ReadTx,
    only: Only,
    state: JobState | None = None,
    tag: Annotated[
        str | None, Query(max_length=301, pattern=r"^[^\x00]*$", description="A tag's key, or `key:value`.")
    ] = None,
    task: Annotated[
        str | None, Query(max_length=200, pattern=r"^[^\x00]*$", description="Only jobs of this task.")
    ] = None,
    owner: Owner = None,
    search: Annotated[
        str | None,
        Query(
            max_length=200,
            pattern=r"^[^\x00]*$",
            description="Words that all stand in the name, the id, the task, the owner or a tag (`key:value`).",
        ),
    ] = None,
    sort: Annotated[
        JobOrder, Query(description="The order; `finished` has what has finished last first, others rise.")
    ] = "newest",
    limit: Limit = PAGE,
    cursor: Annotated[
        str | None, Query(max_length=500, description="The `next` of the page before, in the same order.")
    ] = None,
) -> JobPage:
    """Jobs, newest first unless sorted. A page's `next` is the `cursor` of the following one, or null at the end.

    `unreadable` names those whose rows in the database cannot be read, and says what to do.
    """
    wanted = listing.Wanted(state=state, tag=tag, task=task, owner=owner, search=search, only=only)
    return listing.page(tx, wanted, order=sort, limit=limit, cursor=cursor)


@router.get(
    "/{job_id}",
    summary="Read a job",
    response_model=Job,
    responses={
        **problems(errors.UnknownJob, errors.Unavailable),
        200: {"headers": ETAG},
        304: {"description": "The job is as your `If-None-Match` knows it.", "headers": ETAG},
    },
)
async def get(
    job_id: JobId,
    request: Request,
    if_none_match: Annotated[str | None, Header(description="An `ETag` from before.")] = None,
) -> Response:
    """A job with its state, progress and best configuration so far."""
    body, etag = await turns(request).read(("jobs",), as_polled, job_id)
    known = [one.strip().removeprefix("W/") for one in (if_none_match or "").split(",")]
    if etag in known or "*" in known:
        return Response(status_code=status.HTTP_304_NOT_MODIFIED, headers={"ETag": etag})
    return Response(body, media_type="application/json", headers={"ETag": etag})


def as_polled(database: Database, job_ids: Sequence[str]) -> list[tuple[str, str] | Exception]:
    """Each job's JSON, and its ETag; what goes wrong with one is its own affair."""

    def read(some: Sequence[str]) -> list[tuple[str, str] | Exception]:
        with database.read() as tx:
            found = {one: _tagged(job) for one, job in jobs.several(tx, list({*some})).items()}
            return [found.get(one) or lookup.missing(tx, one) for one in some]

    return one_by_one(read, job_ids)


def _tagged(job: Job) -> tuple[str, str]:
    body = job.model_dump_json()
    return body, f'"{hashlib.sha256(body.encode()).hexdigest()[:32]}"'


@router.post("/{job_id}/cancel", summary="Cancel a job", **VERB)
def cancel(job_id: JobId, tx: Tx, who: Who) -> Job:
    """Stop a job for good; what it has found stays."""
    return jobs.cancel(tx, job_id, by=who.person)


@router.post("/{job_id}/stop", summary="End a job's search", **VERB)
def stop(job_id: JobId, tx: Tx, who: Who) -> Job:
    """End the search before its budget is spent, and confirm its answer; what is trained now is trained on."""
    return budgets.stop(tx, job_id, by=who.person)


@router.post("/{job_id}/pause", summary="Pause a job", **VERB)
def pause(job_id: JobId, tx: Tx, who: Who) -> Job:
    """Hold a job: workers release its trials until it is resumed."""
    return jobs.pause(tx, job_id, by=who.person)


@router.post("/{job_id}/resume", summary="Resume a job", **VERB)
def resume(job_id: JobId, tx: Tx, who: Who) -> Job:
    """Let a paused job go on."""
    return jobs.resume(tx, job_id, by=who.person)


@router.post(
    "/{job_id}/extend",
    status_code=status.HTTP_202_ACCEPTED,
    summary="Extend a job",
    responses=problems(errors.BadRequest, errors.UnknownJob, errors.NotYours, errors.JobFinished, errors.Unavailable),
)
def extend(job_id: JobId, tx: Tx, extension: Extension, who: Who, request: Request) -> Job:
    """Give a job a new budget, in totals, and it goes on where it ended.

    The same budget again changes nothing, but what was stopped or has failed goes on with it.
    """
    budget = extension.budget
    allow = partial(quotas.extend, tx, request.app.state.settings, who)
    return budgets.extend(tx, job_id, budget, by=who.person, allow=allow)


@router.delete(
    "/{job_id}",
    status_code=status.HTTP_204_NO_CONTENT,
    summary="Delete a job",
    responses=problems(errors.UnknownJob, errors.NotYours, errors.JobNotFinished, errors.Unavailable),
)
def delete(job_id: JobId, tx: Tx, who: Who) -> None:
    """Forget a finished job and all that belongs to it."""
    jobs.delete(tx, job_id, by=who.person)
