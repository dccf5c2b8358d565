"""How the client reads what a server answers: values, problems, and streams of events."""

from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ValidationError

from lrtune import errors

Answer = TypeVar("Answer", bound=BaseModel)
URL = "http://127.0.0.1:8000"


class Catalogue(BaseModel):
    """Things that the service has, as it describes them."""

    items: tuple[dict[str, Any], ...]


class Preview(BaseModel):
    """(step, learning rate) of a schedule."""

    curve: tuple[tuple[int, float], ...]


def host_of(url: str) -> str:
    """The host of a server's address. Raises Invalid."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL()
    more = parsed.query or parsed.fragment or parsed.userinfo  # which no server of ours reads
    if parsed.scheme not in ("http", "https") or not parsed.host or more:
        raise errors.Invalid(f"url: found {url!r}; accepted is one such as {URL}")
    return parsed.host


def checked(response: httpx.Response) -> httpx.Response:
    """The response if it is a good one; else the error that it tells of is raised."""
    if response.is_success:
        return response
    try:
        problem = response.json()
        kind = errors.by_slug(problem["type"].replace(":", "/").rpartition("/")[2])
        found = kind(problem.get("detail", ""), problem.get("errors", ()))
        after = response.headers.get("Retry-After", "")
        if isinstance(found, errors.Later) and after.isdigit():
            found.retry_after = int(after)
        raise found
    except (ValueError, KeyError, TypeError, AttributeError):
        detail = f"{response.url} answered {response.status_code} {response.reason_phrase}; is it an lrtune server?"
        raise errors.LrtuneError(detail) from None


def read(kind: type[Answer], answer: httpx.Response | str) -> Answer:
    """What an answer says, as one of `lrtune.wire.results`."""
    try:
        return kind.model_validate_json(answer if isinstance(answer, str) else answer.content)
    except ValidationError as error:
        raise errors.LrtuneError(f"the answer is none of this version of lrtune: {error}") from error


def messages(lines: Iterable[str]) -> Iterator[str]:
    """The data of every message of an event stream but one that broke off in the middle."""
    data: list[str] = []
    for line in lines:
        if line.startswith("data:"):
            data.append(line.removeprefix("data:").removeprefix(" "))
        elif not line and data:
            yield "\n".join(data)
            data = []
