"""Signing in with the key, and out."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import RedirectResponse

from app import sessions
from app.addresses import root
from app.pages.deps import AnyForm, Form, signed_in
from app.rendering import page

router = APIRouter()


@router.get("/sign-in")
def ask(request: Request, target: Annotated[str, Query(alias="next", max_length=2000)] = "") -> Response:
    """The form that asks for the key."""
    if sessions.of(request):
        return RedirectResponse(_ours(request, target), 303)
    return page(request, "sign-in.html", target=_ours(request, target), wrong=False)


@router.post("/sign-in")
def enter(request: Request, fields: AnyForm) -> Response:
    """Look at the key, and begin a session."""
    target, given = _ours(request, fields.get("next", [""])[0]), fields.get("key", [""])[0].strip()
    if not sessions.same(given, request.app.state.key):
        return page(request, "sign-in.html", status=401, target=target, wrong=True)
    answer = RedirectResponse(target, 303)
    sessions.begin(request, answer)
    return answer


@router.post("/sign-out", dependencies=[Depends(signed_in)])
def leave(request: Request, _: Form) -> Response:
    """End the session."""
    answer = RedirectResponse(f"{root(request)}/sign-in", 303)
    sessions.end(request, answer)
    return answer


def _ours(request: Request, target: str) -> str:
    """A path of this server; anything else is the first page."""
    first = f"{root(request)}/"
    return target if target.startswith(first) and not target.startswith(("//", "/\\")) else first
