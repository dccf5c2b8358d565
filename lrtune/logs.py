"""Logs as JSON, one object to a line, with the request, the job and the trial that a line is about: `LRTUNE_LOG=json`.

Server and workers say with `about` what they are at; every line that is logged meanwhile, in whatever thread works for
it, has it. All but ASCII is escaped, so that nothing in a line steers a terminal.
"""

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

SERVERS = ("", "uvicorn", "uvicorn.error", "uvicorn.access")
_about: ContextVar[Mapping[str, Any]] = ContextVar("about", default=MappingProxyType({}))


@contextmanager
def about(**what: Any) -> Iterator[None]:
    """What is logged in here is about this request, job or trial; what is None is left out."""
    token = _about.set({**_about.get(), **{name: value for name, value in what.items() if value is not None}})
    try:
        yield
    finally:
        _about.reset(token)


class Json(logging.Formatter):
    """A line as JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        said: dict[str, Any] = {
            "at": at,
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.name == "uvicorn.access" and isinstance(record.args, tuple) and len(record.args) == 5:
            client, method, path, _, status = record.args
            said |= {"client": client, "method": method, "path": path, "status": status}
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        return json.dumps({**said, **_about.get()}, default=str)


class _Pulse(logging.Filter):
    """Leaves out that somebody looked whether the server is up, as every open page does each two seconds."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is to be written."""
        args = record.args if isinstance(record.args, tuple) else ()
        return not (len(args) == 5 and str(args[2]).endswith("/healthz") and args[4] == 200)


class _Whose(logging.Filter):
    """Puts behind the address of a request, as web servers do, whose key it came with."""

    def filter(self, record: logging.LogRecord) -> bool:
        """The line, with the person where one is known."""
        person, args = _about.get().get("person"), record.args
        if person and isinstance(args, tuple) and len(args) == 5:
            record.args = (f"{args[0]} - {person}", *args[1:])
        return True


def without_pulse() -> None:
    """Keep the server's log free of looks at `/healthz` that found it well."""
    _add(_Pulse())


def with_person() -> None:
    """Let the server's lines of text say whose each request is; those of JSON have it by themselves."""
    _add(_Whose())


def _add(found: logging.Filter) -> None:
    access = logging.getLogger("uvicorn.access")
    if not any(type(one) is type(found) for one in access.filters):
        access.addFilter(found)


def as_json() -> None:
    """Let every handler that is there, uvicorn's among them, write JSON."""
    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.INFO)
    for name in SERVERS:
        for handler in logging.getLogger(name).handlers:
            handler.setFormatter(Json())
