"""The key: made at the first start, asked for on every call under /v1.

It stands in plain text in a file that only its owner can read, because the client and the command line find it there.
"""

import logging
import os
import secrets
import tempfile
from pathlib import Path
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from app import sessions
from app.settings import ADVICE, SHORTEST_KEY, Settings
from lrtune.errors import Unauthorized

log = logging.getLogger("uvicorn.error")  # where an operator looks for what the server says at its start
_bearer = HTTPBearer(
    scheme_name="key",
    description="The key in `.lrtune/credentials`, which the server wrote at its first start (or `LRTUNE_API_KEY`).",
    auto_error=False,
)


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


def authorized(request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]) -> None:
    """Let a request with the key pass, or one of the page that only reads. Raises Unauthorized."""
    key: str = request.app.state.key
    if given is None and request.method in sessions.SAFE and sessions.own(request) and sessions.of(request):
        return
    if given is None or not secrets.compare_digest(given.credentials.encode(), key.encode()):
        raise Unauthorized


def authorized_for_metrics(
    request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> None:
    """The same for /metrics, which an operator may open to everybody."""
    if not request.app.state.settings.metrics_public:
        authorized(request, given)
