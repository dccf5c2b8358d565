"""What routes ask for in their signatures: a transaction to write or to read in, a page's limits, a job's id.

A transaction is committed before the answer leaves (`scope="function"`): a failed commit never follows a 2xx.
"""

import re
from collections.abc import AsyncIterator, Iterator
from typing import Annotated

from fastapi import Depends, Path, Query, Request
from fastapi.routing import APIRoute
from pydantic import AfterValidator
from sqlalchemy.orm import Session

from app.problems import invalid
from app.turns import Turns
from lrtune.store import Database, lookup
from lrtune.wire.people import PERSON, Caller

LARGEST = 2**31 - 1  # the databases' integer
PAGE, MOST = 50, 200


# What asks for no database is a coroutine: FastAPI runs a plain function in a thread, and the way there and back costs
# more than what it does.
#
# A request that waits for a connection or for SQLite's one writer would hold one of the few threads that those it waits
# for need to go on. So it waits here, without a thread.
async def _turn_to_write(request: Request) -> AsyncIterator[None]:
    async with request.app.state.writing:
        yield


async def _turn_to_read(request: Request) -> AsyncIterator[Database]:
    async with request.app.state.reading:
        yield request.app.state.database


def _write(request: Request, _: Annotated[None, Depends(_turn_to_write, scope="function")]) -> Iterator[Session]:
    with request.app.state.database.write() as tx:
        yield tx


Reading = Annotated[Database, Depends(_turn_to_read, scope="function")]


def _read(database: Reading) -> Iterator[Session]:
    with database.read() as tx:
        yield tx


async def _turn_to_think(request: Request) -> AsyncIterator[Database]:
    async with request.app.state.thinking:
        yield request.app.state.database


# For routes that think for a second after they have read: few at a time, and nobody else waits for them.
Thinking = Annotated[Database, Depends(_turn_to_think, scope="function")]


async def _caller(request: Request) -> Caller:
    found: Caller = request.state.caller
    return found


async def _only(request: Request) -> str | None:
    caller: Caller = request.state.caller
    return None if request.app.state.settings.shared or caller.everywhere else caller.person


Who = Annotated[Caller, Depends(_caller)]
# Whose jobs and datasets they see: None where everybody's.
Only = Annotated[str | None, Depends(_only)]
Tx = Annotated[Session, Depends(_write, scope="function")]
ReadTx = Annotated[Session, Depends(_read, scope="function")]


def _clamped(limit: int) -> int:
    return min(max(limit, 1), MOST)


def known_form(job_id: str) -> str:
    """An id such as jobs have, which any database can be asked for. Raises UnknownJob."""
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", job_id):
        raise lookup.unknown(job_id)
    return job_id


Limit = Annotated[
    int,
    Query(description=f"How many items at most; what lies outside 1 to {MOST} is moved inside."),
    AfterValidator(_clamped),
]
Cursor = Annotated[
    str | None, Query(max_length=100, description="The `next` of the page before; leave it out for the first page.")
]
Owner = Annotated[str | None, Query(pattern=PERSON, description="Only what belongs to this person.")]
JobId = Annotated[str, Path(description="A job's id.", examples=["job-0123456789abcdef"]), AfterValidator(known_form)]


def turns(request: Request) -> Turns:
    """For the few routes that think between two transactions. No dependency: what is asked most often is a report."""
    found: Turns = request.app.state.turns
    return found


async def remember_body(request: Request) -> None:
    """Keep the body as it was sent, so that a problem can point into it."""
    if request.headers.get("content-type", "").startswith("application/json") and await request.body():
        request.state.body = await request.json()


def known_query(request: Request) -> None:
    """Refuse query parameters that a path does not have: a misspelt `validate_only` must not submit. Raises Invalid."""
    if not request.scope["query_string"]:
        return
    route = request.scope.get("route")
    names = [one.alias for one in route.dependant.query_params] if isinstance(route, APIRoute) else []
    if unknown := [name for name in request.query_params if name not in names]:
        accepted = f"accepted are {', '.join(names)}" if names else "this path takes none"
        detail = f"query parameter {unknown[0][:60]}: there is none of this name; {accepted}"
        raise invalid([{"pointer": f"/{unknown[0][:60]}", "detail": detail}])
