"""What only admins do, in Python: `Admin(client).create_key("ada").key`. One method a call of the API."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from lrtune.client import Client
from lrtune.responses import read
from lrtune.wire.people import USUAL_SCOPES, ApiKey, AuditEntry, MadeKey, Person
from lrtune.wire.results import Page


class Admin:
    """The keys and the people of a service, asked for by a client whose key has the scope `admin`."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def create_key(self, person: str, *, name: str = "", scopes: Sequence[str] = USUAL_SCOPES) -> MadeKey:
        """A new key for somebody, who need not be known; `key` of it is shown this once."""
        asked = {"person": person, "name": name, "scopes": list(scopes)}
        return read(MadeKey, self._client._send("POST", "/v1/keys", json=asked))

    def keys(self) -> Iterator[ApiKey]:
        """Everybody's keys, newest first, also those that were revoked."""
        return self._client._items(Page[ApiKey], "/v1/keys", {})

    def revoke_key(self, key_id: str) -> None:
        """Let a key be good for nothing any more."""
        self._client._send("DELETE", f"/v1/keys/{quote(key_id, safe='')}")

    def people(self) -> Iterator[Person]:
        """Everybody with a key, or with a weight or quotas of their own."""
        return self._client._items(Page[Person], "/v1/people", {})

    def set_person(self, name: str, *, weight: float = 1.0, quotas: Mapping[str, Any] | None = None) -> Person:
        """Set what somebody may use; a quota that is left out is as the settings have it, None is without bound."""
        asked = {"weight": weight, "quotas": dict(quotas or {})}
        return read(Person, self._client._send("PUT", f"/v1/people/{quote(name, safe='')}", json=asked))

    def remove_person(self, name: str) -> None:
        """Revoke all of somebody's keys and forget what was set for them; their jobs and data stay."""
        self._client._send("DELETE", f"/v1/people/{quote(name, safe='')}")

    def audit(self, *, actor: str | None = None, subject: str | None = None) -> Iterator[AuditEntry]:
        """Who changed what, newest first: all of it, or what somebody did, or what was done to something."""
        return self._client._items(Page[AuditEntry], "/v1/audit", {"actor": actor, "subject": subject})
