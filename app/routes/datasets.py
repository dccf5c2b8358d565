"""Datasets: upload, list, describe, remove."""

from typing import Annotated, Any

from fastapi import APIRouter, Request, Response, status
from fastapi import Path as InPath

from app import receiving
from app.addresses import root
from app.auth import Guarded
from app.deps import PAGE, Cursor, Limit, Only, Owner, ReadTx, Tx, Who
from app.problems import problems
from lrtune import errors
from lrtune.store import datasets
from lrtune.wire.datasets import Dataset, DatasetSummary
from lrtune.wire.results import Page

PATH = "/v1/datasets"
router = APIRouter(route_class=Guarded, prefix=PATH, tags=["datasets"])
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
async def upload(request: Request, name: receiving.Name, who: Who) -> Response:
    """Send a file as the body: `curl --data-binary @wine.csv '.../v1/datasets?name=wine.csv'`."""
    dataset, new = await receiving.dataset(request, name, who.person)
    headers = {"Location": f"{root(request)}{PATH}/{dataset.id}"}
    return Response(dataset.model_dump_json(), 201 if new else 200, headers=headers, media_type="application/json")


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
    receiving.remove(request, tx, dataset_id, who, only)
