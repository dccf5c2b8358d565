"""Errors as `application/problem+json` (RFC 9457): the only file that knows both HTTP and the domain's errors.

A new kind of error needs a line in `STATUS` only if none of its bases is there. A route declares what it may answer
with `responses=problems(errors.UnknownJob)`.
"""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute, iter_route_contexts
from pydantic import BaseModel, Field
from sqlalchemy.exc import InterfaceError, OperationalError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

from app import addresses, error_pages, pointers
from lrtune import errors
from lrtune.errors import LrtuneError, Rejection
from lrtune.store import schema
from lrtune.store.database import in_a_line

log = logging.getLogger("lrtune.server")
MEDIA_TYPE = "application/problem+json"
RETRY_SECONDS = 5
MOST_REJECTED = 50  # fields that one answer names
LONGEST_POINTER = 500  # characters of one
STATUS: Mapping[type[LrtuneError], int] = {
    errors.BadRequest: 400,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.NotFound: 404,
    errors.MethodNotAllowed: 405,
    errors.Conflict: 409,
    errors.TooSlow: 408,
    errors.TooLarge: 413,
    errors.UnsupportedEncoding: 415,
    errors.Later: 429,
    errors.Invalid: 422,
    errors.IdempotencyKeyReused: 422,
    errors.NewerJob: 503,
    errors.Unavailable: 503,
    errors.Internal: 500,
    LrtuneError: 500,
}
HEADERS: Mapping[type[LrtuneError], Mapping[str, str]] = {
    errors.Unauthorized: {"WWW-Authenticate": "Bearer"},
    errors.NewerJob: {"Retry-After": str(RETRY_SECONDS)},
    errors.Unavailable: {"Retry-After": str(RETRY_SECONDS)},
    errors.QuotaReached: {"Retry-After": "60"},
    errors.TooManyTries: {"Retry-After": "60"},
    errors.UnsupportedEncoding: {"Accept-Encoding": "gzip"},
}
_BY_STATUS = {
    400: errors.BadRequest,
    404: errors.NotFound,
    405: errors.MethodNotAllowed,
    408: errors.TooSlow,
    413: errors.TooLarge,
}
REFUSED = (errors.Unauthorized, errors.MissingScope, errors.TooManyTries, errors.QuotaReached)
EVERYWHERE = (
    *REFUSED,
    errors.TooSlow,
    errors.TooLarge,
    errors.UnsupportedEncoding,
    errors.Invalid,
    errors.Internal,
)


class RejectedField(BaseModel):
    """One rejected field."""

    pointer: str = Field(description="Where it stands: a JSON pointer into the body, or `/name` of a parameter.")
    detail: str = Field(description="What was found, and what would be accepted.")


class Problem(BaseModel):
    """What every error looks like (RFC 9457)."""

    type: str = Field(description="What kind it is: stable, for programs.", pattern="^/problems/[a-z-]+$")
    title: str = Field(description="The same for people.")
    status: int = Field(ge=400, le=599)
    detail: str = Field(description="What happened, in a sentence.")
    errors: list[RejectedField] = Field([], description="The rejected fields, where there are any.")


def status(kind: type[LrtuneError]) -> int:
    """The status of a kind of error: its own, else its nearest base's."""
    return next(STATUS[base] for base in kind.__mro__ if base in STATUS)


def problem(error: LrtuneError, headers: Mapping[str, str] | None = None) -> Response:
    """The answer that tells of an error."""
    kind = type(error)
    title = kind.slug().replace("-", " ").capitalize()
    body = {"type": f"/problems/{kind.slug()}", "title": title, "status": status(kind), "detail": error.detail}
    whole = body | ({"errors": error.errors} if error.errors else {})
    # What was sent may hold half a surrogate pair, and the message quotes it.
    text = json.dumps(whole, ensure_ascii=False).encode("utf-8", "replace")
    later = {"Retry-After": str(error.retry_after)} if isinstance(error, errors.Later) else {}
    extra = {**HEADERS.get(kind, {}), **later, **(headers or {})}
    return Response(text, status(kind), headers=extra, media_type=MEDIA_TYPE)


def problems(*kinds: type[LrtuneError]) -> dict[int | str, dict[str, Any]]:
    """The `responses=` of a route that may answer with these errors, besides those that any under /v1 may."""
    return documented(*kinds, *EVERYWHERE)


def documented(*kinds: type[LrtuneError]) -> dict[int | str, dict[str, Any]]:
    """The `responses=` of a route that may answer with these errors and no others."""
    found: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        one = found.setdefault(status(kind), _documented(kind))
        sentence = (kind.__doc__ or "").strip()
        if sentence not in one["description"]:
            one["description"] += f" {sentence}"
    return found


def _documented(kind: type[LrtuneError]) -> dict[str, Any]:
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    headers = {name: {"schema": {"type": "string"}, "required": True} for name in HEADERS.get(kind, ())}
    return {"description": (kind.__doc__ or "").strip(), "content": content} | ({"headers": headers} if headers else {})


def install(app: FastAPI) -> None:
    """Answer every error of this application with a problem."""
    app.add_exception_handler(LrtuneError, _domain)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(RecursionError, _nested)
    for away in (OperationalError, InterfaceError, PoolTimeout):
        app.add_exception_handler(away, _away)
    app.add_exception_handler(ProgrammingError, _refused_by_the_database)
    app.add_exception_handler(Exception, _unforeseen)


def _answer(request: Request, error: LrtuneError, headers: Mapping[str, str] | None = None) -> Response:
    """The problem; a page for whoever asked for one."""
    if error_pages.wanted(request):
        answer = error_pages.page(request, error, status(type(error)))
        answer.headers.update(headers or {})
        return answer
    return problem(error, headers)


async def _domain(request: Request, error: Exception) -> Response:
    assert isinstance(error, LrtuneError)  # noqa: S101 - it is registered for these
    body = getattr(request.state, "body", None)
    if body is not None and error.errors:
        return _answer(request, invalid([pointers.anchored(one, body) for one in error.errors]))
    return _answer(request, error)


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - it is registered for these
    found = error.errors()
    if any(one["type"] == "json_invalid" for one in found):
        detail = f"the body is no JSON: {found[0]['ctx']['error']} at {found[0]['loc'][-1]}"
        return _answer(request, errors.BadRequest(detail))
    return _answer(request, invalid(pointers.rejections(found, error.body, _schema(request, found))))


def invalid(rejected: Sequence[Rejection]) -> errors.Invalid:
    """The error of rejected fields; its detail names the first. Of very many it lists some, and says how many more.

    So no answer is many times as large as what was asked.
    """
    listed: list[Rejection] = [{**one, "pointer": _short(one["pointer"])} for one in rejected[:MOST_REJECTED]]
    first, many = listed[0], len(rejected)
    where = "" if " parameter " in first["detail"][:20] else f"{first['pointer'] or 'the body'}: "
    more = f" (and {many - 1} more)" if many > 1 else ""
    if many > MOST_REJECTED:
        listed.append({"pointer": "", "detail": f"and {many - MOST_REJECTED} more"})
    return errors.Invalid(f"{where}{first['detail']}{more}", listed)


def _short(pointer: str) -> str:
    return pointer if len(pointer) <= LONGEST_POINTER else f"{pointer[:LONGEST_POINTER]}..."


def _schema(request: Request, found: Sequence[Any]) -> dict[str, Any]:
    """The schema of the body that a route takes, when the names of its fields are needed."""
    route = request.scope.get("route")
    if isinstance(route, APIRoute) and route.body_field and any(one["type"] == "extra_forbidden" for one in found):
        return pointers.schema_of(route.body_field.field_info.annotation)
    return {}


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - it is registered for these
    if isinstance(error.__cause__, LrtuneError):  # of ours, raised as the body was read
        return _answer(request, error.__cause__)
    kind = _BY_STATUS.get(error.status_code, errors.BadRequest if error.status_code < 500 else errors.Internal)
    if kind is errors.BadRequest:
        return _answer(request, _unreadable(error.__cause__))
    if kind is errors.NotFound:
        return _nowhere(request)
    if kind is errors.MethodNotAllowed:
        return _not_taken(request)
    if kind is errors.TooSlow:
        return _answer(request, errors.TooSlow(), {"Connection": "close"})
    limit = request.app.state.settings.max_body_bytes
    return _answer(request, kind(f"the body is larger than the {limit} bytes accepted here") if limit else kind())


def _nowhere(request: Request) -> Response:
    """No such path; one that is there but for its slashes is shown the way, in the words of whoever asked."""
    here, before = addresses.path(request), addresses.root(request)
    if (request.method, here) == ("OPTIONS", "/*"):  # asks of the server as a whole
        return Response(status_code=204, headers={"Allow": "DELETE, GET, HEAD, OPTIONS, POST"})
    tidy = re.sub("/+", "/", here).rstrip("/") or "/"
    if tidy != here and _methods(request, tidy):
        query = request.scope["query_string"].decode("latin-1")
        return RedirectResponse(before + quote(tidy) + (f"?{query}" if query else ""), 307)
    there = f"there is no path {request.url.path!r} here; {before}/docs lists those there are"
    return _answer(request, errors.NotFound(there))


def _not_taken(request: Request) -> Response:
    allowed = ", ".join(_methods(request, addresses.path(request)))
    if request.method == "OPTIONS":
        return Response(status_code=204, headers={"Allow": allowed})
    detail = f"{request.url.path} does not take {request.method}; it takes {allowed}"
    return _answer(request, errors.MethodNotAllowed(detail), {"Allow": allowed})


async def _nested(request: Request, error: Exception) -> Response:
    return _answer(request, _unreadable(error))


async def _away(request: Request, error: Exception) -> Response:
    log_away(error)
    return _answer(request, errors.Unavailable())


def log_away(error: Exception) -> None:
    """What the database said, for those who run it: whoever asked hears no more than that it is away."""
    log.warning("the database does not answer: %s", in_a_line(error))


def _refused_by_the_database(request: Request, error: Exception) -> Response:
    """A statement that the database does not take: with another schema there (`lrtune migrate`) that is the reason."""
    with request.app.state.database.read() as tx:
        wrong = schema.differs(schema.found(tx))
    if not wrong:
        raise error
    return _answer(request, errors.Unavailable(wrong))


async def _unforeseen(request: Request, _: Exception) -> Response:
    # Starlette raises the error again after this answer, so that the server logs its traceback. It then closes the
    # connection, which is said, so that nobody sends the next request on it.
    return _answer(request, errors.Internal(), {"Connection": "close"})


def _unreadable(cause: BaseException | None) -> errors.BadRequest:
    """The body could not even be read."""
    nested = isinstance(cause, RecursionError)
    detail = "it is nested too deeply" if nested else str(cause or HTTPStatus.BAD_REQUEST.phrase)
    return errors.BadRequest(f"the body could not be read: {detail[:200]}", [{"pointer": "", "detail": detail[:200]}])


def _methods(request: Request, path: str) -> list[str]:
    """Every method that a path takes: Starlette's own answer names only those of the first route that matches."""
    found: set[str] = set()
    for route in iter_route_contexts(request.app.routes):
        regex = getattr(route, "path_regex", None)
        if regex is not None and regex.match(path):
            found |= set(getattr(route, "methods", None) or ("GET",))  # files that are mounted name none
    return sorted(found | {"OPTIONS"} | ({"HEAD"} if "GET" in found else set())) if found else []
