"""What can be tuned here."""

from fastapi import APIRouter, Request, Response

from app import catalogue
from app.deps import ReadTx
from app.rendering import page

router = APIRouter()


@router.get("/tasks")
def listed(request: Request, tx: ReadTx) -> Response:
    """The tasks with their parameters."""
    return page(request, "tasks.html", tasks=catalogue.tasks(tx))
