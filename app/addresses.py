"""Where the server stands as seen from outside: below a prefix that a proxy takes off before it passes a request on.

The prefix is the one of `lrtune serve --root-path`, else that of the proxy's own `X-Forwarded-Prefix`. Every address
of ours that leaves the server has it in front and nothing before it: no scheme and no host, which only the outside
knows. A proxy that leaves the prefix on does no harm, unless a path of ours begins with the same word. Whoever makes
the header up changes the answer to nobody but themselves.

Who asks is known by the address of the connection. Behind a proxy that is the one in its `X-Forwarded-For`, which
uvicorn believes of a proxy on this machine, and of those in `--forwarded-allow-ips`; of no others, so that nobody makes
up an address.
"""

import ipaddress
import re
from functools import lru_cache
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.routing import iter_route_contexts
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

PREFIX = re.compile(r"(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+")  # none with which `//elsewhere` or `/..` could be made


class Prefix:
    """Brings a request's `root_path` and `path` into one form: `/prefix` and `/prefix/path`, or no prefix at all."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "http":
            given, whole = scope.get("root_path", ""), scope["path"]
            below = whole.removeprefix(given)
            prefix = f"/{given.strip('/')}" if given.strip("/") else _forwarded(scope)
            if prefix and f"{below}/".startswith(f"{prefix}/") and not _begins_ours(scope["app"], prefix):
                below = below.removeprefix(prefix)
            scope["root_path"], scope["path"] = prefix, prefix + below if below[:1] == "/" else f"{prefix}/{below}"
        await self.app(scope, receive, send)


def _forwarded(scope: Scope) -> str:
    named = Headers(scope=scope).get("x-forwarded-prefix", "").rstrip("/")
    return named if PREFIX.fullmatch(named) else ""


def _begins_ours(app: FastAPI, prefix: str) -> bool:
    first = prefix.split("/")[1]
    return any(
        (getattr(route, "path", None) or "/").split("/")[1] == first for route in iter_route_contexts(app.routes)
    )


def root(request: Request) -> str:
    """What stands before every path of this server, as it stands in a link: "" or a prefix such as "/lrtune"."""
    return quote(_root(request.scope))


def path(request: Request) -> str:
    """The path of a request as this server's routes know it."""
    return str(request.scope["path"]).removeprefix(_root(request.scope))


def _root(scope: Scope) -> str:
    return str(scope.get("app_root_path", scope.get("root_path", "")))  # what is mounted has a `root_path` of its own


def client(request: Request) -> str:
    """Where a request comes from: an address; of IPv6 its network, in which one has as many addresses as one likes."""
    return _network(request.client.host if request.client else "")


@lru_cache(maxsize=1024)
def _network(host: str) -> str:
    try:
        return str(ipaddress.IPv6Network((host, 64), strict=False).network_address)
    except ValueError:
        return host
