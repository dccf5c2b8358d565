"""What can be tuned here, and who is working."""

from fastapi import APIRouter

from app.deps import ReadTx
from app.problems import problems
from lrtune import errors
from lrtune.store import tasks as announced
from lrtune.store import workers
from lrtune.wire.results import Page, TaskSummary, Worker
from lrtune.wire.tasks import BUILT_IN, EXTERNAL_TASK

router = APIRouter(prefix="/v1", tags=["catalogue"])


@router.get("/tasks", summary="List tasks", responses=problems(errors.Unavailable))
def tasks(tx: ReadTx) -> Page[TaskSummary]:
    """What can be tuned here, with the parameters each task takes: the built-in tasks, then those of the workers."""
    having = announced.workers_by_task(tx)
    built_in = [
        TaskSummary(
            name=task.name,
            summary=task.summary,
            params=task.params.model_json_schema(),
            metrics=dict(task.metrics),
            steps=task.steps,
            workers=having.get(task.name, 0),
        )
        for task in (*BUILT_IN.values(), EXTERNAL_TASK)
    ]
    return Page(items=[*built_in, *announced.known(tx)])


@router.get("/workers", summary="List workers", responses=problems(errors.Unavailable))
def alive(tx: ReadTx) -> Page[Worker]:
    """The workers heard of lately, and what each is at."""
    return Page(items=workers.alive(tx))
