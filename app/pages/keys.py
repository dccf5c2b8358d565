"""Keys and people, for admins: make a key, which is shown once; revoke one; who changed what."""

from collections.abc import Mapping
from functools import partial
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Path, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import ValidationError
from sqlalchemy.orm import Session

from app import quotas
from app.addresses import root
from app.deps import Cursor, ReadTx, Tx, Who
from app.pages.deps import Form
from app.rendering import page
from lrtune.store import audit_log, people
from lrtune.wire.people import PERSON, SCOPES, USUAL_SCOPES, Caller, MadeKey, NewKey

router = APIRouter(prefix="/keys")
PAGE = 50
USES = {
    "read": "see jobs, answers and data",
    "submit": "submit and change jobs and data of one's own",
    "work": "train one's jobs in a loop of one's own",
    "admin": "all of it, also what is others', and keys",
}


@router.get("")
def listed(request: Request, tx: ReadTx, who: Who, cursor: Cursor = None) -> Response:
    """Everybody's keys, and what each person may use."""
    return _shown(request, tx, who, cursor)


@router.post("")
def make(request: Request, tx: Tx, who: Who, fields: Form) -> Response:
    """Make a key, and show it, which happens this once."""
    given = {name: fields.get(name, [""])[0].strip() for name in ("person", "name")}
    try:
        asked = NewKey.model_validate(given | {"scopes": fields.get("scopes", [])})
    except ValidationError as error:
        words = {"person": "letters, digits and . _ - @ +", "scopes": "at least one", "name": "up to 100 letters"}
        wrong = {str(one["loc"][0]): words[str(one["loc"][0])] for one in error.errors()}
        return _shown(request, tx, who, None, given=given, wrong=wrong, status=422)
    answer = _shown(request, tx, who, None, made=people.make_key(tx, asked, by=who.person))
    answer.headers["Cache-Control"] = "no-store"
    return answer


@router.post("/{key_id}/revoke")
def revoke(
    request: Request, key_id: Annotated[str, Path(pattern=r"^[A-Za-z0-9_-]{1,40}$")], tx: Tx, who: Who, _: Form
) -> Response:
    """Let a key be good for nothing any more."""
    people.revoke(tx, key_id, by=who.person)
    request.app.state.keys.forget()
    return RedirectResponse(f"{root(request)}/keys", 303)


@router.post("/people/{name}/remove")
def remove(request: Request, name: Annotated[str, Path(pattern=PERSON)], tx: Tx, who: Who, _: Form) -> Response:
    """Revoke all keys of a person, and forget what was set for them."""
    people.remove(tx, name, by=who.person)
    request.app.state.keys.forget()
    return RedirectResponse(f"{root(request)}/keys", 303)


@router.get("/audit")
def changes(request: Request, tx: ReadTx, cursor: Cursor = None) -> Response:
    """Who changed what."""
    found = audit_log.page(tx, limit=PAGE, cursor=cursor or None)
    older = urlencode({"cursor": found.next}) if found.next else None
    return page(request, "audit.html", entries=found.items, older=older, first=cursor is None)


def _shown(
    request: Request,
    tx: Session,
    who: Caller,
    cursor: str | None,
    *,
    made: MadeKey | None = None,
    given: Mapping[str, str] | None = None,
    wrong: Mapping[str, str] | None = None,
    status: int = 200,
) -> Response:
    found = people.keys(tx, limit=PAGE, cursor=cursor or None)
    return page(
        request,
        "keys.html",
        status=status,
        keys=found.items,
        older=urlencode({"cursor": found.next}) if found.next else None,
        people=[quotas.person(request.app.state.settings, row) for row in people.everybody(tx)],
        made=made,
        given=given or {},
        wrong=wrong or {},
        scopes=[(one, USES[one]) for one in SCOPES],
        usual=USUAL_SCOPES,
        first=cursor is None,
        needed=partial(people.needed, by=who.person),
    )
