"""What the routes of the page ask for in their signatures: somebody signed in, the fields of a form that is ours."""

from collections.abc import Mapping, Sequence
from typing import Annotated
from urllib.parse import parse_qs

from fastapi import Depends, Request
from sqlalchemy.orm import Session

from app import auth, sessions
from app.deps import known_form
from app.scopes import of_page
from lrtune import errors
from lrtune.store import jobs, lookup
from lrtune.wire.results import Job

Fields = Mapping[str, Sequence[str]]


async def signed_in(request: Request) -> None:
    """Let people pass who have signed in, and may do this. Raises as `auth.admit` does."""
    await auth.admit(request, await auth.in_session(request), of_page(request))


async def _sent(request: Request) -> Fields:
    """The fields of a form. Raises Forbidden where another site sent it."""
    if not sessions.own(request):
        raise errors.Forbidden
    try:
        return parse_qs((await request.body()).decode(), keep_blank_values=True, max_num_fields=2000)
    except ValueError:
        raise errors.BadRequest("the form could not be read") from None


def _ours(
    request: Request, fields: Annotated[Fields, Depends(_sent)], _: Annotated[None, Depends(signed_in)]
) -> Fields:
    """The fields of a form that a page of this session sent. Raises Unauthorized, Forbidden."""
    given = request.headers.get("x-token") or fields.get("token", [""])[0]
    if not sessions.same(given, sessions.token(request)):
        raise errors.Forbidden
    return fields


def _tokened(request: Request, _: Annotated[None, Depends(signed_in)]) -> None:
    """Let a request pass that a page of this session sent, its token in a header. Raises Unauthorized, Forbidden."""
    if not (sessions.own(request) and sessions.same(request.headers.get("x-token", ""), sessions.token(request))):
        raise errors.Forbidden


Tokened = Depends(_tokened)  # for what is no form, and not read before this has been looked at
AnyForm = Annotated[Fields, Depends(_sent)]
Form = Annotated[Fields, Depends(_ours)]


def seen(tx: Session, job_id: str, only: str | None) -> Job:
    """A job that a form or a query names, of those that one may see (`deps.Only`). Raises UnknownJob."""
    job = jobs.get(tx, known_form(job_id))
    if only is not None and job.owner != only:
        raise lookup.unknown(job_id)
    return job
