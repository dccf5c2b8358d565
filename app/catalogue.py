"""The tasks that can be tuned here, for the API and the pages."""

from sqlalchemy.orm import Session

from lrtune.store import tasks as announced
from lrtune.wire.results import TaskSummary
from lrtune.wire.tasks import BUILT_IN, EXTERNAL_TASK


def tasks(tx: Session) -> list[TaskSummary]:
    """The built-in tasks, then those that workers have announced."""
    having = announced.workers_by_task(tx)
    built_in = [
        TaskSummary(
            name=task.name,
            summary=task.summary,
            params=task.params.model_json_schema(),
            metrics=dict(task.metrics),
            ranges=dict(task.ranges),
            steps=task.steps,
            workers=having.get(task.name, 0),
        )
        for task in (*BUILT_IN.values(), EXTERNAL_TASK)
    ]
    return [*built_in, *announced.known(tx)]
