"""Who has signed in at the page: a sealed cookie, so that the server keeps nothing and the browser never has the key.

The cookie holds when it ends and a random word, sealed with a key that is derived from the API key: a new API key signs
everybody out. Requests that change something also bring a token that only a page of ours can know.
"""

import hashlib
import hmac
import secrets
import time

from fastapi import Request, Response

from app.addresses import root

DAYS = 7
SAFE = ("GET", "HEAD")


def _mac(key: str, purpose: str, text: str) -> str:
    own = hmac.digest(key.encode(), f"lrtune page: {purpose}".encode(), "sha256")
    return hmac.new(own, text.encode(), hashlib.sha256).hexdigest()


def name(key: str) -> str:
    """The cookie's name; browsers do not tell ports apart, so each server has one of its own."""
    return f"lrtune-{_mac(key, 'name', '')[:8]}"


def seal(key: str, *, now: float | None = None) -> str:
    """A new session."""
    until = int((time.time() if now is None else now) + DAYS * 86400)
    text = f"{until}.{secrets.token_urlsafe(16)}"
    return f"{text}.{_mac(key, 'session', text)}"


def holds(key: str, sealed: str, *, now: float | None = None) -> bool:
    """Whether a session is one of ours and has not ended."""
    text, _, mac = sealed.rpartition(".")
    if not secrets.compare_digest(mac.encode(), _mac(key, "session", text).encode()):
        return False
    return int(text.partition(".")[0]) > (time.time() if now is None else now)


def of(request: Request) -> str | None:
    """The session of a request, if it holds."""
    key: str = request.app.state.key
    sealed = request.cookies.get(name(key), "")
    return sealed if sealed and holds(key, sealed) else None


def token(request: Request) -> str:
    """What a request of this session that changes something has to bring along."""
    return _mac(request.app.state.key, "token", of(request) or "")


def own(request: Request) -> bool:
    """Whether a browser says that a request comes from a page of ours, or says nothing."""
    site = request.headers.get("sec-fetch-site", "none")
    return site in ("same-origin", "none")


def begin(request: Request, response: Response) -> None:
    """Sign in."""
    key: str = request.app.state.key
    secure = request.url.scheme == "https"
    cookie = {
        "max_age": DAYS * 86400,
        "httponly": True,
        "samesite": "strict",
        "secure": secure,
        "path": root(request) or "/",
    }
    response.set_cookie(name(key), seal(key), **cookie)  # type: ignore[arg-type]


def end(request: Request, response: Response) -> None:
    """Sign out."""
    response.delete_cookie(name(request.app.state.key), path=root(request) or "/", httponly=True, samesite="strict")


def same(given: str, wanted: str) -> bool:
    """Whether two secrets are the same, in a time that tells nothing."""
    return secrets.compare_digest(given.encode(), wanted.encode())
