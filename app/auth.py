"""Who may come in: the first key, made at the first start; and on every call, whose key it is and what that may do.

The first key stands in plain text in a file that only its owner can read, because the client and the command line find
it there; of all others the database has a hash.
"""

import logging
import os
import secrets
import tempfile
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from fastapi.security.utils import get_authorization_scheme_param

from app import sessions
from app.addresses import client
from app.deps import known_form, known_query
from app.keys import Keys, Known
from app.scopes import lacking, of_call
from app.settings import ADVICE, SHORTEST_KEY, Settings
from app.tries import Tries
from lrtune.errors import MissingScope, NotYours, Unauthorized
from lrtune.store import lookup, people
from lrtune.wire.people import Caller, Scope

log = logging.getLogger("uvicorn.error")  # where an operator looks for what the server says at its start


def server_key(settings: Settings) -> str:
    """The key to ask for: the one that was set, else the one in the credentials file, made if there is none."""
    if settings.api_key is not None:
        return settings.api_key.get_secret_value()
    path = settings.credentials
    if not path.exists():
        _make(path)
        log.info("lrtune: a new API key is in %s", path)
    key = path.read_text().strip()
    if not key:
        raise Unauthorized(f"{path} is empty; delete it, and the server makes a new key")
    if len(key) < SHORTEST_KEY:
        raise Unauthorized(f"{path} has a key of {len(key)} characters; accepted are {SHORTEST_KEY} or more: {ADVICE}")
    return key


def _make(path: Path) -> None:
    """Write a new key whole and at once: of two servers that start together, the second reads the first one's."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".credentials-")  # 0600, made with O_EXCL
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
        os.link(name, path)
    except FileExistsError:
        pass
    finally:
        Path(name).unlink()


async def known(request: Request, given: str) -> Known | None:
    """Whose key a text is, in its turn; None where it is nobody's. Raises TooManyTries."""
    keys: Keys = request.app.state.keys
    tries: Tries = request.app.state.tries
    return await tries.look(client(request), people.digest(given), partial(keys.of_text, given))


async def in_session(request: Request) -> Known | None:
    """Who has signed in, as long as their key is good."""
    sealed = sessions.of(request)
    if sealed is None:
        return None
    keys: Keys = request.app.state.keys
    return await keys.of_id(sessions.key_of(sealed))


async def admit(request: Request, found: Known | None, scope: Scope) -> None:
    """Let a request pass whose key has the scope, is within its requests, and may do this to the job that it names.

    Raises Unauthorized, MissingScope, QuotaReached, UnknownJob, NotYours.
    """
    if found is None:
        raise Unauthorized
    request.state.caller = found.caller
    settings: Settings = request.app.state.settings
    quota = found.quotas.get("requests_a_minute", settings.quota_requests_a_minute)
    request.app.state.requests_made.count(found.caller.person, quota)
    if not found.caller.may(scope):
        raise MissingScope(lacking(found.caller, scope))
    if "job_id" in request.path_params:
        await _job_admitted(request, found.caller, scope, known_form(str(request.path_params["job_id"])))


async def _job_admitted(request: Request, caller: Caller, scope: Scope, job_id: str) -> None:
    shared = request.app.state.settings.shared
    if caller.admin or (scope == "read" and (shared or caller.everywhere)):
        return
    owner = await request.app.state.keys.owner(job_id)
    if owner == caller.person:
        return
    if not (shared or caller.everywhere):  # no answer tells a job that is another's from one that is not there
        raise lookup.unknown(job_id)
    if owner is None:  # the route says so
        return
    if not (caller.may_train(owner) if scope == "work" else caller.may_change(owner)):
        raise NotYours(f"{job_id} belongs to {owner}; only they, or an admin, can change it")


async def authorized(request: Request) -> None:
    """Let a request of the API pass: with a key, or of the page, which only reads. Raises as `admit` does."""
    scheme, given = get_authorization_scheme_param(request.headers.get("Authorization"))
    if scheme.lower() == "bearer" and given:
        found = await known(request, given)
    else:
        reads = request.method in sessions.SAFE and sessions.own(request)
        found = await in_session(request) if reads else None
    await admit(request, found, of_call(request))


async def authorized_for_metrics(request: Request) -> None:
    """The same for /metrics, which an operator may open to everybody."""
    if not request.app.state.settings.metrics_public:
        await authorized(request)


class Guarded(APIRoute):
    """A route of the API: the key is looked at first, then that all query parameters are the route's, then the body.

    As dependencies they would come after the body, and each cost each call more than what it does.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What answers a request."""
        answer = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            await authorized(request)
            known_query(request)
            return await answer(request)

        return guarded
