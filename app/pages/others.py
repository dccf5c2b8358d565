"""Who is working, and what can be tuned."""

from fastapi import APIRouter, Request, Response

from app.deps import ReadTx
from app.pages.look import page
from app.routes import tasks
from lrtune.store import workers

router = APIRouter()


@router.get("/workers")
def working(request: Request, tx: ReadTx) -> Response:
    """The workers heard of lately."""
    return page(request, "workers.html", workers=workers.alive(tx))


@router.get("/tasks")
def tunable(request: Request, tx: ReadTx) -> Response:
    """The tasks with their parameters."""
    return page(request, "tasks.html", tasks=tasks.tasks(tx).items)
