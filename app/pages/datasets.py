"""Uploaded data: the datasets, and what was decided about each column of one, and why."""

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Path, Request, Response

from app.deps import Cursor, Only, ReadTx, Who
from app.rendering import page
from lrtune.store import datasets

router = APIRouter()
PAGE = 20
Name = Annotated[str, Path(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f/]+$")]


@router.get("/datasets")
def listed(request: Request, tx: ReadTx, only: Only, cursor: Cursor = None) -> Response:
    """The datasets, newest first."""
    found = datasets.page(tx, only=only, limit=PAGE, cursor=cursor or None)
    older = urlencode({"cursor": found.next}) if found.next else None
    return page(request, "datasets.html", datasets=found.items, older=older, first=cursor is None)


@router.get("/datasets/{name}")
def shown(request: Request, name: Name, tx: ReadTx, who: Who, only: Only) -> Response:
    """One dataset, by its id or name."""
    return page(request, "dataset.html", dataset=datasets.get(tx, name, mine=who.person, only=only))
