"""Signing in with a key or with the provider of the settings, and out."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import RedirectResponse

from app import auth, sessions
from app.addresses import root
from app.deps import Tx
from app.openid import RETURN, NotSignedIn, Provider, SignedIn
from app.pages.deps import AnyForm, Form
from app.rendering import page
from lrtune.errors import NotFound
from lrtune.store import people

router = APIRouter()


@router.get("/sign-in")
async def ask(request: Request, target: Annotated[str, Query(alias="next", max_length=2000)] = "") -> Response:
    """The form that asks for the key."""
    if await auth.in_session(request):
        return RedirectResponse(_ours(request, target), 303)
    return _asked(request, _ours(request, target))


@router.post("/sign-in")
async def enter(request: Request, fields: AnyForm) -> Response:
    """Look at the key, and begin a session. Raises TooManyTries."""
    target, given = _ours(request, fields.get("next", [""])[0]), fields.get("key", [""])[0].strip()
    found = await auth.known(request, given)
    if found is None:
        return _asked(request, target, status=401, wrong=True)
    answer = RedirectResponse(target, 303)
    sessions.begin(request, answer, found.caller.key)
    return answer


def _provider(request: Request) -> Provider:
    found: Provider | None = request.app.state.provider
    if found is None:
        raise NotFound
    return found


@router.get("/sign-in/openid")
async def leave_for_provider(
    request: Request,
    provider: Annotated[Provider, Depends(_provider)],
    target: Annotated[str, Query(alias="next", max_length=2000)] = "",
) -> Response:
    """Send somebody to the provider."""
    try:
        return await provider.leave(request, _ours(request, target))
    except NotSignedIn as error:
        return _asked(request, _ours(request, target), status=502, refused=str(error))


async def _came(request: Request, provider: Annotated[Provider, Depends(_provider)]) -> SignedIn | NotSignedIn:
    try:
        return await provider.come_back(request)
    except NotSignedIn as error:
        return error


@router.get(RETURN)
def enter_from_provider(
    request: Request,
    provider: Annotated[Provider, Depends(_provider)],
    came: Annotated[SignedIn | NotSignedIn, Depends(_came)],
    tx: Tx,
) -> Response:
    """Begin a session of whoever the provider says came.

    The answer is a page that goes on by itself and no redirect: browsers count that as coming from the provider still,
    and would not send the session's cookie along.
    """
    if isinstance(came, NotSignedIn):
        return _asked(request, _ours(request, ""), status=401, refused=str(came))
    key = people.session_key(tx, came.person, came.scopes, f"sign-in with {provider.name}"[:100])
    answer = page(request, "signed-in.html", target=_ours(request, came.target), person=came.person)
    sessions.begin(request, answer, key)
    return answer


@router.post("/sign-out")
def leave(request: Request, _: Form) -> Response:
    """End the session."""
    answer = RedirectResponse(f"{root(request)}/sign-in", 303)
    sessions.end(request, answer)
    return answer


def _asked(request: Request, target: str, *, status: int = 200, wrong: bool = False, refused: str = "") -> Response:
    """The form that asks for the key, and offers the provider where there is one."""
    provider: Provider | None = request.app.state.provider
    name = provider.name if provider else ""
    return page(request, "sign-in.html", status=status, target=target, wrong=wrong, refused=refused, provider=name)


def _ours(request: Request, target: str) -> str:
    """A path of this server; anything else is the first page."""
    first = f"{root(request)}/"
    return target if target.startswith(first) and not target.startswith(("//", "/\\")) else first
