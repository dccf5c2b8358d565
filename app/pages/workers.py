"""Who is working."""

from fastapi import APIRouter, Request, Response

from app.deps import Only, ReadTx
from app.rendering import page
from lrtune.store import workers

router = APIRouter()


@router.get("/workers")
def listed(request: Request, tx: ReadTx, only: Only) -> Response:
    """The workers heard of lately."""
    return page(request, "workers.html", workers=workers.alive(tx, only=only))
