"""Several people at one server, as the tests of keys have them."""

from collections.abc import Sequence
from typing import Any

import httpx

LESS = {"task": "digits", "horizon": {"steps": 40}}


def made(service: httpx.Client, person: str, scopes: Sequence[str] = ("read", "submit", "work")) -> dict[str, Any]:
    """A new key, as the service answers it."""
    answer = service.post("/v1/keys", json={"person": person, "name": "of a test", "scopes": list(scopes)})
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    return found


def client(service: httpx.Client, key: str) -> httpx.Client:
    """Somebody else at the same server."""
    headers = {"Authorization": f"Bearer {key}"}
    return httpx.Client(base_url=service.base_url, headers=headers, timeout=60, trust_env=False)


def someone(service: httpx.Client, person: str, *scopes: str) -> httpx.Client:
    """Somebody with a key of their own, of these scopes or the usual ones."""
    return client(service, made(service, person, scopes or ("read", "submit", "work"))["key"])


def job(who: httpx.Client, **fields: Any) -> str:
    """The id of a job that somebody submitted."""
    answer = who.post("/v1/jobs", json=LESS | fields)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def upload(who: httpx.Client, name: str = "wine.csv", content: bytes = b"x,y\n1,0\n2,1\n" * 9) -> httpx.Response:
    """A dataset of somebody's."""
    return who.post("/v1/datasets", params={"name": name}, content=content)
