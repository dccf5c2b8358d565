"""The first page: the jobs, searched and sorted; several of them compared, cancelled or deleted together."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse
from sqlalchemy.orm import Session

from app.addresses import root
from app.deps import Only, ReadTx, Tx, Who, known_form
from app.pages.deps import Fields, Form, seen
from app.problems import invalid
from app.rendering import page
from lrtune.analysis import differences
from lrtune.errors import LrtuneError, NotYours
from lrtune.store import datasets, jobs, listing, lookup, workers
from lrtune.store.listing import Wanted
from lrtune.wire.job import JobOrder
from lrtune.wire.people import Caller
from lrtune.wire.results import ACTIVE, Job, JobState

router = APIRouter()
PAGE, MOST = 20, 8  # jobs on a page; beside each other
ORDERS: dict[JobOrder, str] = {
    **{"newest": "newest first", "oldest": "oldest first", "finished": "last finished first", "name": "by name"},
    **{"task": "by task", "state": "by state", "owner": "by owner"},
}
Text = Annotated[str, Query(max_length=301, pattern=r"^[^\x00]*$")]
Ids = Annotated[list[str] | None, Query(alias="job", max_length=1000)]


@router.get("/")
def listed(
    request: Request,
    tx: ReadTx,
    only: Only,
    search: Annotated[str, Query(max_length=200, pattern=r"^[^\x00]*$")] = "",
    state: Text = "",
    tag: Text = "",
    task: Text = "",
    owner: Text = "",
    sort: Text = "newest",
    cursor: Annotated[str | None, Query(max_length=500)] = None,
) -> Response:
    """The jobs that fit."""
    given = {"search": search, "tag": tag, "task": task, "owner": owner}
    wanted: dict[str, Any] = {name: text.strip() or None for name, text in given.items()}
    wanted |= {"state": JobState(state) if state in list(JobState) else None, "only": only}
    order: JobOrder = sort if sort in ORDERS else "newest"
    found = listing.page(tx, Wanted(**wanted), order=order, limit=PAGE, cursor=cursor or None)
    asked = {name: value for name, value in wanted.items() if value is not None and name != "only"}
    query = asked | ({} if order == "newest" else {"sort": order})
    return page(
        request,
        "jobs.html",
        jobs=found.items,
        unreadable=found.unreadable,
        lacking=_lacking(found.items) if not workers.alive(tx) else None,
        asked=asked,
        order=order,
        orders=ORDERS,
        states=list(JobState),
        tasks=listing.tasks(tx, only=only),
        query=urlencode(query),
        here=urlencode(query | ({"cursor": cursor} if cursor else {})),
        older=urlencode(query | {"cursor": found.next}) if found.next else None,
        first=cursor is None,
    )


def _lacking(found: Sequence[Job]) -> int:
    """How many of these jobs wait for a worker."""
    return sum(job.state in ACTIVE and bool(job.waiting_for) for job in found)


@router.get("/compare")
def compare(request: Request, tx: ReadTx, only: Only, ids: Ids = None) -> Response:
    """Some jobs beside each other: their answers, their curves, and what differs in what they ask for."""
    chosen = list(dict.fromkeys(ids or ()))
    if not 2 <= len(chosen) <= MOST:
        raise invalid([{"pointer": "/job", "detail": f"found {len(chosen)}; accepted are 2 to {MOST} jobs to compare"}])
    found = [seen(tx, one, only) for one in chosen]
    specs = [job.spec for job in found]
    data = (datasets.find(tx, one, only=only) for one in differences.uploads(specs))
    named = differences.names(one for one in data if one is not None)
    rows, measures = differences.differing(specs, named), differences.measures(specs, named)
    return page(request, "compare.html", jobs=found, rows=rows, measures=measures)


@router.post("/selected/cancel")
def cancel(request: Request, tx: Tx, who: Who, only: Only, fields: Form) -> Response:
    """Stop the chosen jobs for good."""
    return _each(request, tx, fields, who, only, "cancelled", lambda one: jobs.cancel(tx, one, by=who.person))


@router.post("/selected/delete")
def delete(request: Request, tx: Tx, who: Who, only: Only, fields: Form) -> Response:
    """Forget the chosen jobs, those that are over."""
    return _each(request, tx, fields, who, only, "deleted", lambda one: jobs.delete(tx, one, by=who.person))


def _each(
    request: Request,
    tx: Session,
    fields: Fields,
    who: Caller,
    only: str | None,
    done: str,
    verb: Callable[[str], object],
) -> Response:
    """Do something to each chosen job; where one cannot be, the others are done, and a page says which was not."""
    refused = dict[str, str]()
    chosen = list(dict.fromkeys(fields.get("job", [])))[:PAGE]
    for job_id in chosen:
        try:
            _require_own(tx, job_id, who, only)
            with tx.begin_nested():
                verb(job_id)
        except LrtuneError as error:
            refused[job_id] = error.detail
    back = request.url.query  # of the list in which they were chosen
    if not refused:
        return RedirectResponse(f"{root(request)}/" + (f"?{back}" if back else ""), 303)
    count = len(chosen) - len(refused)
    return page(request, "refused.html", status=409, refused=refused, count=count, done=done, back=back)


def _require_own(tx: Session, job_id: str, who: Caller, only: str | None) -> None:
    """Raise UnknownJob, NotYours."""
    owner = lookup.owner(tx, known_form(job_id))
    if owner is None or (only is not None and owner != only):
        raise lookup.unknown(job_id)
    if not who.may_change(owner):
        raise NotYours(f"{job_id} belongs to {owner}; only they, or an admin, can change it")
