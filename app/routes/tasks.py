"""What can be tuned here, and who is working."""

from typing import Any, Literal

from fastapi import APIRouter

from app.deps import ReadTx
from app.problems import problems
from lrtune import errors
from lrtune.results import Page, Result, Worker
from lrtune.store import workers
from lrtune.tasks import BUILT_IN, EXTERNAL_TASK

router = APIRouter(prefix="/v1", tags=["catalogue"])


class TaskSummary(Result):
    """A task: its parameters as JSON Schema, its metrics with their goals, its usual steps; 0: the job says."""

    name: str
    summary: str
    params: dict[str, Any]
    metrics: dict[str, Literal["minimize", "maximize"]]
    steps: int


@router.get("/tasks", summary="List tasks", responses=problems())
def tasks() -> Page[TaskSummary]:
    """What can be tuned here, with the parameters each task takes."""
    return Page(
        items=[
            TaskSummary(
                name=task.name,
                summary=task.summary,
                params=task.params.model_json_schema(),
                metrics=dict(task.metrics),
                steps=task.steps,
            )
            for task in (*BUILT_IN.values(), EXTERNAL_TASK)
        ]
    )


@router.get("/workers", summary="List workers", responses=problems(errors.Unavailable))
def alive(tx: ReadTx) -> Page[Worker]:
    """The workers heard of lately, and what each is at."""
    return Page(items=workers.alive(tx))
