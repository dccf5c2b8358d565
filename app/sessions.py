"""Who has signed in at the page: a sealed cookie, so that the browser never has the key.

The cookie holds when it ends, a random word and the id of the key it was begun with, sealed with a secret derived from
the key of the settings: a new one there signs everybody out, and a key that is revoked whoever came with it. Requests
that change something also bring a token that only a page of ours can know.
"""

import contextlib
import hashlib
import hmac
import logging
import os
import re
import secrets
import time
from pathlib import Path

from fastapi import Request, Response

from app.addresses import root

log = logging.getLogger("uvicorn.error")
DAYS = 7
SAFE = ("GET", "HEAD")


def _mac(key: str, purpose: str, text: str) -> str:
    own = hmac.digest(key.encode(), f"lrtune page: {purpose}".encode(), "sha256")
    return hmac.new(own, text.encode(), hashlib.sha256).hexdigest()


def name(key: str) -> str:
    """The cookie's name; browsers do not tell ports apart, so each server has one of its own."""
    return f"lrtune-{_mac(key, 'name', '')[:8]}"


def seal(key: str, *, key_id: str = "", now: float | None = None) -> str:
    """A new session of who came with a key: its id, or "" for the one of the settings."""
    until = int((time.time() if now is None else now) + DAYS * 86400)
    text = f"{until}.{secrets.token_urlsafe(16)}.{key_id}"
    return f"{text}.{_mac(key, 'session', text)}"


def holds(key: str, sealed: str, *, now: float | None = None) -> bool:
    """Whether a session is one of ours and has not ended."""
    text, _, mac = sealed.rpartition(".")
    if not secrets.compare_digest(mac.encode(), _mac(key, "session", text).encode()):
        return False
    return int(text.partition(".")[0]) > (time.time() if now is None else now)


def key_of(sealed: str) -> str:
    """The id of the key that a session was begun with, which says who that is; "" for the key of the settings."""
    _, _, key_id = sealed.rpartition(".")[0].split(".", 2) if sealed.count(".") > 2 else ("", "", "")
    return key_id


class Ended:
    """Sessions that somebody has signed out of before their time: a hash of each, in a file beside the key's.

    So they stay ended when the server starts anew, and for every server of this host; where the file cannot be written,
    as long as this server runs.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._seen = path, 0
        self._until: dict[str, int] = {}
        self._read()
        if self._until:
            self._tidy()

    def add(self, sealed: str) -> None:
        """End a session."""
        until, digest = int(sealed.partition(".")[0]), hashlib.sha256(sealed.encode()).hexdigest()
        self._until[digest] = until
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with os.fdopen(os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "a") as file:
                file.write(f"{until} {digest}\n")
        except OSError as error:
            log.warning("lrtune: who signed out is known until this server ends: %s", error)

    def __contains__(self, sealed: str) -> bool:
        """Whether a session was ended, here or by another server of this host."""
        self._read()
        return hashlib.sha256(sealed.encode()).hexdigest() in self._until

    def _read(self) -> None:
        """Read the file where it has changed."""
        try:
            changed = self._path.stat().st_mtime_ns
            if changed == self._seen:
                return
            lines = self._path.read_text().split("\n")
        except OSError:
            return
        known = (line.split(" ") for line in lines if re.fullmatch(r"\d{1,12} [0-9a-f]{64}", line))
        self._until |= {digest: int(until) for until, digest in known if int(until) > time.time()}
        self._seen = changed

    def _tidy(self) -> None:
        """Write the file anew without those that are over by now."""
        half = self._path.with_name(f"{self._path.name}-{secrets.token_hex(4)}")
        with contextlib.suppress(OSError):
            half.write_text("".join(f"{until} {digest}\n" for digest, until in self._until.items()))
            half.chmod(0o600)
            half.replace(self._path)


def of(request: Request) -> str | None:
    """The session of a request, if it holds."""
    key: str = request.app.state.key
    sealed = request.cookies.get(name(key), "")
    return sealed if sealed and holds(key, sealed) and sealed not in request.app.state.ended else None


def token(request: Request) -> str:
    """What a request of this session that changes something has to bring along."""
    return _mac(request.app.state.key, "token", of(request) or "")


def own(request: Request) -> bool:
    """Whether a browser says that a request comes from a page of ours, or says nothing."""
    site = request.headers.get("sec-fetch-site", "none")
    return site in ("same-origin", "none")


def begin(request: Request, response: Response, key_id: str) -> None:
    """Sign in with a key."""
    key: str = request.app.state.key
    secure = request.url.scheme == "https"
    cookie = {
        "max_age": DAYS * 86400,
        "httponly": True,
        "samesite": "strict",
        "secure": secure,
        "path": root(request) or "/",
    }
    response.set_cookie(name(key), seal(key, key_id=key_id), **cookie)  # type: ignore[arg-type]


def end(request: Request, response: Response) -> None:
    """Sign out: this session is no good any more, whoever has its cookie."""
    if sealed := of(request):
        request.app.state.ended.add(sealed)
    response.delete_cookie(name(request.app.state.key), path=root(request) or "/", httponly=True, samesite="strict")


def same(given: str, wanted: str) -> bool:
    """Whether two secrets are the same, in a time that tells nothing."""
    return secrets.compare_digest(given.encode(), wanted.encode())
