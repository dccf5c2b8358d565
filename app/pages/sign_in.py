"""Signing in with the key, and out."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from app import auth, sessions
from app.addresses import root
from app.pages.deps import AnyForm, Form
from app.rendering import page

router = APIRouter()


@router.get("/sign-in")
async def ask(request: Request, target: Annotated[str, Query(alias="next", max_length=2000)] = "") -> Response:
    """The form that asks for the key."""
    if await auth.in_session(request):
        return RedirectResponse(_ours(request, target), 303)
    return page(request, "sign-in.html", target=_ours(request, target), wrong=False)


@router.post("/sign-in")
async def enter(request: Request, fields: AnyForm) -> Response:
    """Look at the key, and begin a session. Raises TooManyTries."""
    target, given = _ours(request, fields.get("next", [""])[0]), fields.get("key", [""])[0].strip()
    found = await auth.known(request, given)
    if found is None:
        return page(request, "sign-in.html", status=401, target=target, wrong=True)
    answer = RedirectResponse(target, 303)
    sessions.begin(request, answer, found.caller.key)
    return answer


@router.post("/sign-out")
def leave(request: Request, _: Form) -> Response:
    """End the session."""
    answer = RedirectResponse(f"{root(request)}/sign-in", 303)
    sessions.end(request, answer)
    return answer


def _ours(request: Request, target: str) -> str:
    """A path of this server; anything else is the first page."""
    first = f"{root(request)}/"
    return target if target.startswith(first) and not target.startswith(("//", "/\\")) else first
