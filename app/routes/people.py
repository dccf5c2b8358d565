"""People: whose key this is; and for admins who has keys, with which weight, and what they may use."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, status

from app import quotas
from app.auth import Guarded
from app.deps import ReadTx, Tx, Who, remember_body
from app.problems import problems
from lrtune import errors
from lrtune.store import people
from lrtune.wire.people import PERSON, SCOPES, Me, Person, PersonChange
from lrtune.wire.results import Page

router = APIRouter(route_class=Guarded, prefix="/v1", tags=["people"])
Name = Annotated[str, Path(pattern=PERSON, description="What a person is called here.", examples=["ada"])]


@router.get("/me", summary="Read whose key this is", responses=problems(errors.Unavailable))
def me(tx: ReadTx, request: Request, who: Who) -> Me:
    """Whose key this is, what it is good for, and what they may use."""
    held = quotas.usual(request.app.state.settings) | people.own_quotas(tx, who.person)
    return Me(person=who.person, scopes=tuple(one for one in SCOPES if who.may(one)), quotas=held)


@router.get("/people", summary="List people", responses=problems(errors.Unavailable))
def listed(tx: ReadTx, request: Request) -> Page[Person]:
    """Everybody with a key, or with a weight or quotas of their own, by name."""
    return Page(items=[quotas.person(request.app.state.settings, row) for row in people.everybody(tx)])


@router.put(
    "/people/{name}",
    summary="Set a person's weight and quotas",
    dependencies=[Depends(remember_body)],
    responses=problems(errors.BadRequest, errors.Unavailable),
)
def change(name: Name, asked: PersonChange, request: Request, tx: Tx, who: Who) -> Person:
    """Set what a person may use; what is left out is as usual again. Who was not known is from now on."""
    row = people.change(tx, name, asked, by=who.person)
    request.app.state.keys.forget()
    return quotas.person(request.app.state.settings, row)


@router.delete(
    "/people/{name}",
    status_code=status.HTTP_204_NO_CONTENT,
    summary="Remove a person",
    responses=problems(errors.UnknownPerson, errors.StillNeeded, errors.Unavailable),
)
def remove(name: Name, request: Request, tx: Tx, who: Who) -> None:
    """Revoke all keys of a person and forget what was set for them; their jobs and data stay, for admins to change."""
    people.remove(tx, name, by=who.person)
    request.app.state.keys.forget()
