"""Keys: make one, list them, revoke one. For admins."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, Response, status

from app.addresses import root
from app.auth import Guarded
from app.deps import PAGE, Cursor, Limit, ReadTx, Tx, Who, remember_body
from app.problems import problems
from lrtune import errors
from lrtune.store import people
from lrtune.wire.people import ApiKey, MadeKey, NewKey
from lrtune.wire.results import Page

router = APIRouter(route_class=Guarded, prefix="/v1/keys", tags=["people"])
KeyId = Annotated[str, Path(description="A key's id.", pattern=r"^[A-Za-z0-9_-]{1,40}$")]
LOCATION = {"Location": {"description": "The key's own path.", "schema": {"type": "string"}}}


@router.post(
    "",
    status_code=status.HTTP_201_CREATED,
    summary="Make a key",
    dependencies=[Depends(remember_body)],
    responses={
        **problems(errors.BadRequest, errors.Unavailable),
        201: {"description": "The key, which is shown this once.", "headers": LOCATION},
    },
)
def make(asked: NewKey, request: Request, response: Response, tx: Tx, who: Who) -> MadeKey:
    """Make a key for a person. It is shown this once: only a hash of it is kept."""
    made = people.make_key(tx, asked, by=who.person)
    response.headers["Location"] = f"{root(request)}/v1/keys/{made.id}"
    response.headers["Cache-Control"] = "no-store"
    return made


@router.get("", summary="List keys", responses=problems(errors.Unavailable))
def page(tx: ReadTx, limit: Limit = PAGE, cursor: Cursor = None) -> Page[ApiKey]:
    """Everybody's keys, newest first, also those that were revoked; none of them itself."""
    return people.keys(tx, limit=limit, cursor=cursor)


@router.delete(
    "/{key_id}",
    status_code=status.HTTP_204_NO_CONTENT,
    summary="Revoke a key",
    responses=problems(errors.UnknownKey, errors.Unavailable),
)
def revoke(key_id: KeyId, request: Request, tx: Tx, who: Who) -> None:
    """Let a key be good for nothing any more, within seconds everywhere; sessions that began with it end."""
    people.revoke(tx, key_id, by=who.person)
    request.app.state.keys.forget()
