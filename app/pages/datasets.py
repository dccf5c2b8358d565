"""Uploaded data: upload, list, what was decided about each column of one and why, delete."""

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import RedirectResponse

from app import receiving
from app.addresses import root
from app.deps import Cursor, Only, ReadTx, Tx, Who
from app.pages.deps import Form, Tokened
from app.rendering import page
from lrtune.store import datasets
from lrtune.wire.datasets import SUFFIXES, TAKEN_BY

router = APIRouter(prefix="/datasets")
PAGE = 20
Name = Annotated[str, Path(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f/]+$")]


@router.get("")
def listed(request: Request, tx: ReadTx, only: Only, cursor: Cursor = None) -> Response:
    """The datasets, newest first."""
    found = datasets.page(tx, only=only, limit=PAGE, cursor=cursor or None)
    older = urlencode({"cursor": found.next}) if found.next else None
    most = request.app.state.settings.max_upload_bytes
    known = {"most": most, "suffixes": ",".join(dict.fromkeys((*SUFFIXES, ".gz")))}
    return page(request, "datasets.html", datasets=found.items, older=older, first=cursor is None, **known)


@router.post("", dependencies=[Tokened])
async def upload(request: Request, name: receiving.Name, who: Who) -> Response:
    """Take in a file, the body as it is, and answer as the API does, in JSON."""
    dataset, new = await receiving.dataset(request, name, who.person)
    return Response(dataset.model_dump_json(), 201 if new else 200, media_type="application/json")


@router.get("/{name}")
def shown(request: Request, name: Name, tx: ReadTx, who: Who, only: Only) -> Response:
    """One dataset, by its id or name."""
    found = datasets.get(tx, name, mine=who.person, only=only)
    called = found.name if found.owner == who.person else found.id
    ways = [
        (task, urlencode({"task": task, "dataset": called})) for task, kinds in TAKEN_BY.items() if found.kind in kinds
    ]
    return page(request, "dataset.html", dataset=found, ways=ways)


@router.post("/{name}/delete")
def remove(request: Request, name: Name, tx: Tx, who: Who, only: Only, _: Form) -> Response:
    """Forget a dataset and its bytes, once no job that is not over needs it."""
    receiving.remove(request, tx, name, who, only)
    return RedirectResponse(f"{root(request)}/datasets", 303)
