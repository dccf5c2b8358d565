"""One job: what is winning and why, its trials, its log, the verbs that change it. Parts are asked for one by one."""

from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from fastapi.responses import RedirectResponse
from sqlalchemy.orm import Session

from app import quotas, reports, thinking
from app.addresses import root
from app.deps import LARGEST, JobId, ReadTx, Thinking, Tx, Who
from app.landscape import known, terrain
from app.pages.answer import picture
from app.pages.deps import Fields, Form
from app.pages.job_form import value
from app.problems import invalid
from app.rendering import page
from lrtune.errors import NoResultYet
from lrtune.export import FORMATS, export
from lrtune.store import budgets, charts, events, jobs, search_history, trials
from lrtune.wire.job import Budget
from lrtune.wire.results import OVER, Job, JobState, TrialState

router = APIRouter(prefix="/jobs/{job_id}")
TRIALS, EVENTS = 25, 8
SHOWN = 20_000  # characters of an export on the page; the whole is in the file
TITLES = {"pytorch": "PyTorch", "deepspeed": "DeepSpeed", "json": "JSON", "csv": "CSV", "timm": "timm"} | {
    name: name.capitalize() for name in ("keras", "optax", "transformers", "lightning")
}
Skip = Annotated[int, Query(ge=0, le=1_000_000)]
State = Annotated[str, Query(max_length=20)]
Before = Annotated[int | None, Query(ge=0, le=LARGEST)]


@router.get("")
def whole(request: Request, job_id: JobId, tx: ReadTx) -> Response:
    """The page of a job."""
    job = jobs.get(tx, job_id)
    parts = _summary(tx, job) | _log(tx, job_id, None) | _table(tx, job_id, "newest", "", 0)
    return page(request, "job.html", **parts, server=str(request.base_url).rstrip("/"))


@router.get("/summary")
def summary(request: Request, job_id: JobId, tx: ReadTx) -> Response:
    """What is asked first: is it working, what is winning, when will it be done."""
    return page(request, "parts/summary.html", **_summary(tx, jobs.get(tx, job_id)))


def _summary(tx: Session, job: Job) -> dict[str, Any]:
    traceback = events.traceback(tx, job.id) if job.state is JobState.FAILED else ""
    times = {"left": _left(job), "took": _took(job)}
    drawn = picture(tx, job.id, job.best) if job.best else None
    failed = {"failure": failure(job), "traceback": traceback}
    return {"job": job, "over": job.state in OVER, "picture": drawn, **failed, **times}


def failure(job: Job) -> str:
    """The reason that the top of a failed job's page has, so that nothing below says it again."""
    return job.reason if job.state is JobState.FAILED else ""


def _took(job: Job) -> float | None:
    """Seconds from the first trial to the end, or to now."""
    return ((job.finished_at or datetime.now(UTC)) - job.started_at).total_seconds() if job.started_at else None


def _left(job: Job) -> float | None:
    """Seconds to go, if the rest takes as long as what is done; None before there is enough to tell."""
    took, done = _took(job), job.progress.fraction
    return took * (1 - done) / done if took and done > 0.02 and job.state is JobState.RUNNING else None


@router.get("/why")
def why(request: Request, job_id: JobId, tx: ReadTx) -> Response:
    """The answers to "too high?", "too low?" and "how sure?"."""
    job = jobs.get(tx, job_id)
    found = None if job.best is None else known(tx, job)
    return page(request, "parts/why.html", job=job, found=found, over=job.state in OVER)


@router.get("/landscape")
def landscape(job_id: JobId, database: Thinking) -> Response:
    """The map of rates as `/v1` has it; nothing (204) where there is none yet, which is no error of a page's."""
    try:
        return Response(thinking.think(database, terrain, job_id).model_dump_json(), media_type="application/json")
    except NoResultYet:
        return Response(status_code=204)


@router.get("/history")
def history(request: Request, job_id: JobId, tx: ReadTx) -> Response:
    """How the search went: what its cost, its trials and its time went to, and what its picture is drawn from."""
    job = jobs.get(tx, job_id)
    return page(request, "parts/history.html", job=job, found=search_history.read(tx, job))


@router.get("/longer")
def longer(request: Request, job_id: JobId, database: Thinking) -> Response:
    """What the answer would be over longer runs; nothing before there is one."""
    return page(request, "parts/longer.html", found=thinking.think(database, reports.longer, job_id))


@router.get("/table")
def table(
    request: Request, job_id: JobId, tx: ReadTx, order: State = "newest", state: State = "", skip: Skip = 0
) -> Response:
    """A page of the trials."""
    job = jobs.get(tx, job_id)
    return page(request, "parts/table.html", **_table(tx, job_id, order, state, skip), job=job, failure=failure(job))


def _table(tx: Session, job_id: str, order: str, state: str, skip: int) -> dict[str, Any]:
    wanted = TrialState(state) if state in list(TrialState) else None
    found = charts.table(tx, job_id, best_first=order == "best", state=wanted, limit=TRIALS, skip=skip)
    asked = {"order": order, "state": wanted or "", "skip": skip, "states": list(TrialState)}
    return {"trials": found.items, "later": found.next, "earlier": max(0, skip - TRIALS) if skip else None, **asked}


@router.get("/log")
def log(request: Request, job_id: JobId, tx: ReadTx, before: Before = None) -> Response:
    """A page of the log."""
    job = jobs.get(tx, job_id)
    return page(request, "parts/log.html", job=job, failure=failure(job), **_log(tx, job_id, before))


def _log(tx: Session, job_id: str, before: int | None) -> dict[str, Any]:
    found = events.latest(tx, job_id, before=before, limit=EVENTS)
    return {"events": found.items, "before": before, "older": found.next}


@router.get("/export")
def exported(
    request: Request, job_id: JobId, tx: ReadTx, format: Annotated[str, Query(max_length=40)] = FORMATS[0]
) -> Response:
    """The answer as something to run, to copy."""
    try:
        best = jobs.best(tx, job_id)
    except NoResultYet:
        over = jobs.state(tx, job_id) in OVER
        return page(request, "parts/export.html", job_id=job_id, file=None, over=over)
    file = export(best, trials.get(tx, job_id, best.trial), format)
    text = file.beginning(SHOWN + 1)
    known: dict[str, Any] = {"job_id": job_id, "file": file, "format": format, "formats": FORMATS, "titles": TITLES}
    return page(request, "parts/export.html", **known, text=text[:SHOWN], more=len(text) > SHOWN)


@router.get("/trials/{number}")
def trial(request: Request, job_id: JobId, number: Annotated[int, Path(ge=0, le=LARGEST)], tx: ReadTx) -> Response:
    """One trial: why it was chosen, how it went, why it ended."""
    job, found = jobs.get(tx, job_id), trials.get(tx, job_id, number)
    before, after = trials.neighbours(tx, job_id, number)
    metrics = sorted({name for report in found.reports for name in report.metrics})
    winner = job.best is not None and job.best.configuration == found.configuration
    known: dict[str, Any] = {"before": before, "after": after, "metrics": metrics, "winner": winner}
    traceback = events.traceback(tx, job_id, number) if found.state is TrialState.FAILED else ""
    return page(request, "trial.html", job=job, trial=found, traceback=traceback, **known)


@router.post("/cancel")
def cancel(request: Request, job_id: JobId, tx: Tx, who: Who, _: Form) -> Response:
    """Stop the job for good."""
    return _back(request, jobs.cancel(tx, job_id, by=who.person))


@router.post("/stop")
def stop(request: Request, job_id: JobId, tx: Tx, who: Who, _: Form) -> Response:
    """End the search, and confirm its answer."""
    return _back(request, budgets.stop(tx, job_id, by=who.person))


@router.post("/pause")
def pause(request: Request, job_id: JobId, tx: Tx, who: Who, _: Form) -> Response:
    """Hold the job."""
    return _back(request, jobs.pause(tx, job_id, by=who.person))


@router.post("/resume")
def resume(request: Request, job_id: JobId, tx: Tx, who: Who, _: Form) -> Response:
    """Let the job go on."""
    return _back(request, jobs.resume(tx, job_id, by=who.person))


@router.post("/extend")
def extend(request: Request, job_id: JobId, tx: Tx, who: Who, fields: Form) -> Response:
    """Give the job a new budget, in totals."""
    budget = _budget(fields)
    allow = partial(quotas.extend, tx, request.app.state.settings, who)
    return _back(request, budgets.extend(tx, job_id, budget, by=who.person, allow=allow))


def _budget(fields: Fields) -> Budget:
    """The budget that was filled in; what was left empty sets no bound. Raises Invalid."""
    text = {name: fields.get(name, [""])[0].strip() for name in Budget.model_fields}
    try:
        return Budget.model_validate({name: value(one) if one else None for name, one in text.items()})
    except ValueError:
        detail = "accepted is a number above 0 in at least one field; trials are whole"
        raise invalid([{"pointer": "/budget", "detail": detail}]) from None


@router.post("/delete")
def delete(request: Request, job_id: JobId, tx: Tx, who: Who, _: Form) -> Response:
    """Forget the job."""
    jobs.delete(tx, job_id, by=who.person)
    return RedirectResponse(f"{root(request)}/", 303)


def _back(request: Request, job: Job) -> Response:
    return RedirectResponse(f"{root(request)}/jobs/{job.id}", 303)
