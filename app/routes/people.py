"""People: who has keys, with which weight their jobs share the workers, and what they may use. For admins."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request

from app import quotas
from app.deps import ReadTx, Tx, Who, remember_body
from app.problems import problems
from lrtune import errors
from lrtune.store import people
from lrtune.wire.people import PERSON, Person, PersonChange
from lrtune.wire.results import Page

router = APIRouter(prefix="/v1/people", tags=["people"])
Name = Annotated[str, Path(pattern=PERSON, description="What a person is called here.", examples=["ada"])]


@router.get("", summary="List people", responses=problems(errors.Unavailable))
def listed(tx: ReadTx, request: Request) -> Page[Person]:
    """Everybody with a key, or with a weight or quotas of their own, by name."""
    return Page(items=[quotas.person(request.app.state.settings, row) for row in people.everybody(tx)])


@router.put(
    "/{name}",
    summary="Set a person's weight and quotas",
    dependencies=[Depends(remember_body)],
    responses=problems(errors.BadRequest, errors.Unavailable),
)
def change(name: Name, asked: PersonChange, request: Request, tx: Tx, who: Who) -> Person:
    """Set what a person may use; what is left out is as usual again. Who was not known is from now on."""
    row = people.change(tx, name, asked, by=who.person)
    request.app.state.keys.forget()
    return quotas.person(request.app.state.settings, row)
