"""What can be tuned here, and who is working."""

from fastapi import APIRouter

from app import catalogue
from app.auth import Guarded
from app.deps import Only, ReadTx
from app.problems import problems
from lrtune import errors
from lrtune.store import workers
from lrtune.wire.results import Page, TaskSummary, Worker

router = APIRouter(route_class=Guarded, prefix="/v1", tags=["catalogue"])


@router.get("/tasks", summary="List tasks", responses=problems(errors.Unavailable))
def tasks(tx: ReadTx) -> Page[TaskSummary]:
    """What can be tuned here, with the parameters each task takes: the built-in tasks, then those of the workers."""
    return Page(items=catalogue.tasks(tx))


@router.get("/workers", summary="List workers", responses=problems(errors.Unavailable))
def alive(tx: ReadTx, only: Only) -> Page[Worker]:
    """The workers heard of lately, and what each is at."""
    return Page(items=workers.alive(tx, only=only))
