"""Datasets: upload, list, describe, remove."""

from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response, status
from fastapi import Path as InPath
from fastapi.concurrency import run_in_threadpool

from app import quotas, receiving
from app.addresses import root
from app.deps import PAGE, Cursor, Limit, Only, Owner, ReadTx, Tx, Who
from app.problems import problems
from lrtune import errors
from lrtune.store import Database, datasets
from lrtune.uploads import describe, kind_of, mirror
from lrtune.wire.datasets import Dataset, DatasetSummary, Description, Kind
from lrtune.wire.results import Page

PATH = "/v1/datasets"
UNPACKED = 4  # times the largest upload that a file may take unpacked
router = APIRouter(prefix=PATH, tags=["datasets"])
LOCATION = {"Location": {"description": "The dataset's own path.", "schema": {"type": "string"}}}
BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "description": "The file: CSV, also in gzip; Parquet, npz, UTF-8 text, or a zip: a folder of pictures a class.",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
DatasetId = Annotated[
    str,
    InPath(description="A dataset's id or name.", min_length=1, max_length=100, pattern=r"^[^\x00-\x1f/]+$"),
]
Name = Annotated[
    str,
    Query(
        description="What jobs call it; the suffix says what it is, and the content must agree.",
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_ .()+-]{0,95}\.[A-Za-z]{2,7}$",
        max_length=100,
        examples=["wine.csv"],
    ),
]


@router.post(
    "",
    status_code=status.HTTP_201_CREATED,
    summary="Upload a dataset",
    response_model=Dataset,
    openapi_extra=BODY,
    responses={
        **problems(errors.BadRequest, errors.NameTaken, errors.UnusableFile, errors.Unavailable),
        200: {"model": Dataset, "description": "These bytes were here already, under the name that it says."},
        201: {"description": "The dataset, with what was found in it.", "headers": LOCATION},
    },
)
async def upload(request: Request, name: Name, who: Who) -> Response:
    """Send a file as the body: `curl --data-binary @wine.csv '.../v1/datasets?name=wine.csv'`."""
    settings, kind = request.app.state.settings, kind_of(name)
    if request.headers.get("content-type", "").startswith("multipart/"):
        raise errors.BadRequest("found a form; accepted is the file itself as the body, as `curl --data-binary @FILE`")
    announced = request.headers.get("content-length", "")
    async with request.app.state.reading:
        await run_in_threadpool(_room, request, who.person, int(announced) if announced.isdigit() else 0)
    with receiving.part(settings.data_dir) as (file, path):
        digest, size = await receiving.receive(request, file, limit=settings.max_upload_bytes)
        largest = UNPACKED * settings.max_upload_bytes
        async with request.app.state.describing:
            found = await run_in_threadpool(describe, path, kind, largest=largest)
        keep = partial(_keep, request, who.person, found, path)
        async with request.app.state.writing:
            dataset, new = await run_in_threadpool(keep, digest=digest, name=name, kind=kind, size=size)
    headers = {"Location": f"{root(request)}{PATH}/{dataset.id}"}
    return Response(dataset.model_dump_json(), 201 if new else 200, headers=headers, media_type="application/json")


def _room(request: Request, person: str, size: int) -> None:
    """Raise QuotaReached before anything is received where it would be afterwards."""
    database: Database = request.app.state.database
    with database.read() as tx:
        quotas.upload(tx, request.app.state.settings, person, size, hold=False)


def _keep(
    request: Request, person: str, found: Description, part: Path, *, digest: str, name: str, kind: Kind, size: int
) -> tuple[Dataset, bool]:
    settings, database = request.app.state.settings, request.app.state.database
    data_dir: Path = settings.data_dir
    mirror.fetch(data_dir, [name])
    if (data_dir / name).exists():
        raise errors.NameTaken(f"a file {name!r} lies in the data folder already; choose another name")

    def put(file: str) -> None:
        try:
            part.replace(data_dir / file)
            mirror.keep(data_dir, file)
        except OSError as error:
            raise errors.Unavailable(f"the upload cannot be kept: {error.strerror}") from None

    with database.write() as tx:
        quotas.upload(tx, settings, person, size)
        return datasets.add(tx, found, digest=digest, name=name, kind=kind, size=size, owner=person, put=put)


@router.get("", summary="List datasets", responses=problems(errors.Unavailable))
def page(
    tx: ReadTx, only: Only, owner: Owner = None, limit: Limit = PAGE, cursor: Cursor = None
) -> Page[DatasetSummary]:
    """Datasets, newest first, in short: what was found in one says `GET /v1/datasets/{dataset_id}`.

    A page's `next` is the `cursor` of the following one, or null at the end.
    """
    return datasets.page(tx, owner=owner, only=only, limit=limit, cursor=cursor)


@router.get("/{dataset_id}", summary="Read a dataset", responses=problems(errors.UnknownDataset, errors.Unavailable))
def get(dataset_id: DatasetId, tx: ReadTx, who: Who, only: Only) -> Dataset:
    """What is in a dataset: kind, rows, columns with what was decided about each and why, classes and first rows."""
    return datasets.get(tx, dataset_id, mine=who.person, only=only)


@router.delete(
    "/{dataset_id}",
    status_code=status.HTTP_204_NO_CONTENT,
    summary="Remove a dataset",
    responses=problems(errors.UnknownDataset, errors.NotYours, errors.DatasetInUse, errors.Unavailable),
)
def remove(dataset_id: DatasetId, tx: Tx, request: Request, who: Who, only: Only) -> None:
    """Forget a dataset and its bytes, once no job that is not over needs it."""
    data_dir: Path = request.app.state.settings.data_dir
    datasets.remove(tx, dataset_id, unlink=partial(mirror.remove, data_dir), by=who, only=only)
