"""People, the keys that they come with, what these may do, and the log of who changed what."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

ADMIN = "admin"  # who has the key of the settings; what was there before there were people belongs to them
Scope = Literal["read", "submit", "work", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
USUAL_SCOPES: tuple[Scope, ...] = ("read", "submit", "work")
MOST = 1_000_000_000_000_000  # a quota that nobody reaches
PERSON = r"^[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}$"


def _each_once(scopes: tuple[Scope, ...]) -> tuple[Scope, ...]:
    return tuple(one for one in SCOPES if one in scopes)


class _Asked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class _Said(BaseModel):
    model_config = ConfigDict(frozen=True)


PersonName = Annotated[str, Field(pattern=PERSON, description="What a person is called here.", examples=["ada"])]


class NewKey(_Asked):
    """A key to make. `admin` among its scopes includes all others; the others stand each for itself."""

    person: PersonName
    name: Annotated[str, Field(max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")] = ""
    scopes: Annotated[
        tuple[Scope, ...], Field(min_length=1, max_length=8, strict=False), AfterValidator(_each_once)
    ] = USUAL_SCOPES


class ApiKey(_Said):
    """A key as it is listed: not the key, but its `beginning` to recognise it by. `used_at` may be a minute behind."""

    id: str
    person: str
    name: str
    beginning: str
    scopes: tuple[str, ...]
    created_at: datetime
    used_at: datetime | None
    revoked_at: datetime | None


class MadeKey(ApiKey):
    """A key that was just made; `key` itself is shown this once."""

    key: str


class Quotas(_Asked):
    """What a person may use at most. What is left out is as the settings have it; null is without bound."""

    queued_jobs: Annotated[int, Field(ge=0, le=MOST)] | None = None
    full_runs_a_day: Annotated[float, Field(ge=0, le=MOST)] | None = None
    upload_bytes: Annotated[int, Field(ge=0, le=MOST)] | None = None
    requests_a_minute: Annotated[int, Field(ge=1, le=MOST)] | None = None


class PersonChange(_Asked):
    """What an admin sets for a person: the weight with which their jobs share the workers, and their quotas.

    What is left out is as usual again.
    """

    weight: Annotated[float, Field(ge=0.01, le=1000)] = 1.0
    quotas: Quotas = Quotas()


class Person(_Said):
    """Somebody with keys or jobs; `quotas` are those that hold, where `own` ones were set and where none were."""

    name: str
    weight: float
    quotas: dict[str, float | int | None]
    own: tuple[str, ...] = ()
    created_at: datetime | None


class Me(_Said):
    """Whose key this is, what it is good for, and what they may use."""

    person: str
    scopes: tuple[str, ...]
    quotas: dict[str, float | int | None]


class AuditEntry(_Said):
    """One change: who made it, when, and what was changed: a job, a dataset, a key or a person."""

    id: int
    at: datetime
    actor: str
    action: str
    subject: str
    details: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, with which key (none: the one of the settings), and what that may do."""

    person: str = ADMIN
    scopes: frozenset[str] = frozenset(SCOPES)
    key: str = ""

    @property
    def admin(self) -> bool:
        """Whether they may do everything."""
        return "admin" in self.scopes

    def may(self, scope: str) -> bool:
        """Whether the key is good for a scope."""
        return self.admin or scope in self.scopes

    @property
    def everywhere(self) -> bool:
        """Whether they see what is others' also where that is hidden: admins, and the keys of the operator's hosts."""
        return self.admin or self.person == ADMIN

    def may_change(self, owner: str) -> bool:
        """Whether they may change what belongs to somebody."""
        return self.admin or self.person == owner

    def may_train(self, owner: str) -> bool:
        """Whether they may take the trials of somebody's job: one's own, and the operator's hosts everybody's."""
        return self.everywhere or self.person == owner
