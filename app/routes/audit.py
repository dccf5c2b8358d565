"""Who changed what. For admins."""

from typing import Annotated

from fastapi import APIRouter, Query

from app.auth import Guarded
from app.deps import PAGE, Cursor, Limit, ReadTx
from app.problems import problems
from lrtune import errors
from lrtune.store import audit_log
from lrtune.wire.people import PERSON, AuditEntry
from lrtune.wire.results import Page

router = APIRouter(route_class=Guarded, prefix="/v1/audit", tags=["people"])
Actor = Annotated[str | None, Query(pattern=PERSON, description="Only what this person did.")]
Subject = Annotated[
    str | None,
    Query(max_length=100, pattern=r"^[^\x00]*$", description="Only what was done to this job, dataset, key or person."),
]


@router.get("", summary="Read who changed what", responses=problems(errors.Unavailable))
def page(
    tx: ReadTx, actor: Actor = None, subject: Subject = None, limit: Limit = PAGE, cursor: Cursor = None
) -> Page[AuditEntry]:
    """Every change with who made it, newest first."""
    return audit_log.page(tx, actor=actor, subject=subject, limit=limit, cursor=cursor)
