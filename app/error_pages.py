"""Errors for people at a browser: a page that says what happened; the way to the key where one is needed."""

from urllib.parse import quote

from fastapi import Request, Response
from fastapi.responses import RedirectResponse

from app import addresses, rendering
from app.accept import prefers
from app.security_headers import HEADERS
from lrtune import errors
from lrtune.errors import LrtuneError


def wanted(request: Request) -> bool:
    """Whether a browser asks for a page, or a part of one; programs get problems."""
    if addresses.path(request).startswith("/v1/"):
        return False
    return "hx-request" in request.headers or prefers(request, "text/html")


def page(request: Request, found: LrtuneError, status: int) -> Response:
    """The page of an error."""
    part = "hx-request" in request.headers
    if isinstance(found, errors.Unauthorized):
        here = request.headers.get("hx-current-url", "") if part else str(request.url)
        door = f"{addresses.root(request)}/sign-in"
        target = f"{door}?next={quote(_path(here), safe='')}" if request.method == "GET" else door
        return Response(status_code=status, headers={"HX-Redirect": target}) if part else RedirectResponse(target, 303)
    title = type(found).slug().replace("-", " ").capitalize()
    known = {"title": title, "code": status, "detail": found.detail, "rejected": found.errors}
    answer = rendering.page(request, "parts/error.html" if part else "error.html", status=status, **known)
    answer.headers.update(HEADERS)  # what nobody foresaw is answered outside of every middleware
    return answer


def _path(url: str) -> str:
    """The path and query of an address."""
    _, _, rest = url.partition("://")
    return "/" + rest.partition("/")[2]
