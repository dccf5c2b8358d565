"""Tells whoever a job names of its end: a signed POST, to an address that was looked at before it is connected to.

`X-Lrtune-Signature` is the HMAC-SHA256, in hexadecimal, of the timestamp, a full stop and the body, with the key
LRTUNE_WEBHOOK_SECRET. The name in an address is resolved once: a name that changes its mind between the look and the
connection (DNS rebinding) leads nowhere else. Redirects are not followed.
"""

import asyncio
import hashlib
import hmac
import ipaddress
import json
import logging
import socket
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import httpx
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool

from app.settings import Settings
from app.streams import pause
from lrtune import __version__
from lrtune.errors import NotFound
from lrtune.store import Database, jobs, webhooks
from lrtune.store.webhooks import Due

LOOK, PATIENCE = 2.0, 10.0  # seconds
AT_ONCE = 8  # webhooks
NAT64 = ipaddress.ip_network("64:ff9b::/96")  # leads to any IPv4 address, private ones among them
log = logging.getLogger("lrtune.webhooks")


class Refused(Exception):
    """An address that may not be told anything."""


async def telling(database: Database, writing: asyncio.Semaphore, settings: Settings, stopping: asyncio.Event) -> None:
    """Look every other second, and tell whom there is to tell, until the server stops."""
    while not stopping.is_set():
        with suppress(SQLAlchemyError):  # the database is away: later
            while await run_in_threadpool(_waiting, database) and not stopping.is_set():
                async with writing:
                    found = await run_in_threadpool(_claimed, database)
                await asyncio.gather(*(_tell(database, writing, settings, due) for due in found))
        await pause(stopping, LOOK)


async def _tell(database: Database, writing: asyncio.Semaphore, settings: Settings, due: Due) -> None:
    why, for_good = await run_in_threadpool(_told, database, due, settings)
    async with writing:
        await run_in_threadpool(_settled, database, due, why, for_good=for_good)


def _waiting(database: Database) -> bool:
    with database.read() as tx:
        return webhooks.waiting(tx)


def _claimed(database: Database) -> list[Due]:
    """Several at once, so that one receiver that is slow keeps few others waiting."""
    found = list[Due]()
    with database.write() as tx:
        while len(found) < AT_ONCE and (due := webhooks.claim(tx)) is not None:
            found.append(due)
    return found


def _settled(database: Database, due: Due, why: str, *, for_good: bool) -> None:
    with database.write() as tx:
        if why:
            webhooks.missed(tx, due, why, for_good=for_good)
        else:
            webhooks.heard(tx, due)


def _told(database: Database, due: Due, settings: Settings) -> tuple[str, bool]:
    """Why a webhook was not heard, or nothing; and whether it never will be."""
    if settings.webhook_secret is None:
        return "LRTUNE_WEBHOOK_SECRET is not set any more, so nothing can be signed", True
    try:
        with database.read() as tx:
            job = jobs.get(tx, due.id).model_dump(mode="json")
        body = {"id": f"{due.id}:{due.finished_at.isoformat()}", "event": f"job-{job['state']}", "job": job}
        send(due.url, body, settings.webhook_secret.get_secret_value(), private=settings.webhook_private)
    except NotFound:
        return "its job was deleted", True
    except Refused as error:
        return str(error), True
    except (httpx.InvalidURL, UnicodeError) as error:  # a part of the name is empty or too long, say
        return f"{due.url} is no address that can be reached: {error}", True
    except (httpx.HTTPError, OSError) as error:
        words = str(error) or type(error).__name__
        log.warning("the webhook of %s was not heard: %s", due.id, words)
        return words, False
    return "", False


def send(url: str, body: dict[str, Any], secret: str, *, private: bool) -> None:
    """Post to a URL, by the address that its name has now, and wait for the head of its answer for so long at most.

    Raises Refused, httpx.HTTPError, httpx.InvalidURL, UnicodeError (names that cannot be), OSError.
    """
    content, at = json.dumps(body).encode(), str(int(datetime.now(UTC).timestamp()))
    asked = httpx.URL(url)
    there = asked.copy_with(host=allowed(asked.host, asked.port or _usual(asked), private=private))
    headers = {
        "Host": asked.netloc.decode(),
        "Content-Type": "application/json",
        "User-Agent": f"lrtune/{__version__}",
        "X-Lrtune-Delivery": body["id"],
        "X-Lrtune-Timestamp": at,
        "X-Lrtune-Signature": f"v1={signature(secret, at, content)}",
    }
    named = {"sni_hostname": asked.host}  # the certificate must be that of the name

    async def post() -> None:
        async with (
            asyncio.timeout(PATIENCE),  # the client's is for each read anew
            httpx.AsyncClient(timeout=PATIENCE, trust_env=False, follow_redirects=False) as client,
            client.stream("POST", there, content=content, headers=headers, extensions=named) as answer,
        ):
            if not answer.is_success:
                words = f"it answered {answer.status_code}"
                raise httpx.HTTPStatusError(words, request=answer.request, response=answer)

    try:
        asyncio.run(post())
    except TimeoutError:
        raise TimeoutError(f"it did not answer within {PATIENCE:g} seconds") from None


def signature(secret: str, at: str, content: bytes) -> str:
    """What a receiver computes, too, and compares."""
    return hmac.new(secret.encode(), f"{at}.".encode() + content, hashlib.sha256).hexdigest()


def allowed(host: str, port: int, *, private: bool) -> str:
    """The address of a host to connect to. Raises Refused for one that is not on the internet, unless allowed."""
    found = [str(one[4][0]) for one in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    for address in found:
        if not private and not _public(ipaddress.ip_address(address)):
            words = "is no address of the internet; LRTUNE_WEBHOOK_PRIVATE allows such ones"
            raise Refused(f"{host} is {address}, which {words}")
    return found[0]


def _public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        inside = address.ipv4_mapped or address.sixtofour or (address.teredo and address.teredo[1])
        if inside:
            return _public(inside)
        if address in NAT64:
            return False
        if address.is_site_local:  # the private ones of before `fc00::/7`
            return False
    return address.is_global and not (address.is_multicast or address.is_reserved or address.is_unspecified)


def _usual(url: httpx.URL) -> int:
    return 443 if url.scheme == "https" else 80
