"""Each request has an id, its client's or a new one: it stands in the answer, and in every line logged of it.

The line of its answer says as well whose key it came with: the person, never the key.
"""

import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lrtune import logs

HEADER = "X-Request-Id"
ACCEPTED = re.compile(r"[A-Za-z0-9._-]{1,64}")
WHOSE = re.compile(r"/jobs/(?P<job>job-[0-9a-f]{16})(?:/trials/(?P<trial>\d{1,9}))?")


class RequestIds:
    """Says in the log, and in the answer, which request it is."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        request = given if ACCEPTED.fullmatch(given) else uuid.uuid4().hex
        whose = WHOSE.search(scope["path"])
        state = scope.setdefault("state", {})  # `auth.admit` leaves there who comes

        async def with_id(message: Message) -> None:
            if message["type"] != "http.response.start":
                await send(message)
                return
            MutableHeaders(scope=message)[HEADER] = request
            with logs.about(person=getattr(state.get("caller"), "person", None)):
                await send(message)

        job, trial = (whose["job"], whose["trial"]) if whose else (None, None)
        with logs.about(request=request, job=job, trial=int(trial) if trial else None):
            await self.app(scope, receive, with_id)
