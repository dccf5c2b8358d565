"""Everything that can go wrong, in the domain's words. A class's docstring is its message; its name is its slug.

The door (`app/problems.py`) maps each kind to a status, the client maps the slug back to the same class.
"""

import re
from collections.abc import Sequence
from typing import TypedDict


class Rejection(TypedDict):
    """One rejected field: where it stands (a JSON pointer) and what would be accepted."""

    pointer: str
    detail: str


class LrtuneError(Exception):
    """Something went wrong."""

    def __init__(self, detail: str = "", errors: Sequence[Rejection] = ()) -> None:
        self.detail = detail or (self.__doc__ or "").strip()
        self.errors = list(errors)
        super().__init__(self.detail)

    def __str__(self) -> str:
        said = [(one["detail"], f"{one['pointer'] or '/'}: {one['detail']}") for one in self.errors]
        return "\n  ".join([self.detail, *(line for words, line in said if self.detail not in (words, line))])

    @classmethod
    def slug(cls) -> str:
        """The stable name on the wire: NoResultYet is no-result-yet."""
        return re.sub(r"(?<!^)(?=[A-Z])", "-", cls.__name__).lower()


class NotFound(LrtuneError):
    """There is no such thing here."""


class UnknownJob(NotFound):
    """There is no job with this id."""


class UnknownTrial(NotFound):
    """This job has no trial with this number."""


class UnknownDataset(NotFound):
    """There is no dataset with this id or name."""


class UnknownKey(NotFound):
    """There is no key with this id."""


class UnknownPerson(NotFound):
    """There is nobody of this name."""


class MethodNotAllowed(LrtuneError):
    """This path does not take this method."""


class Conflict(LrtuneError):
    """This cannot be done in the present state."""


class NoResultYet(Conflict):
    """No trial of this job has finished over the whole horizon yet, so there is no answer to give."""


class JobFinished(Conflict):
    """The job is over, so this no longer applies; `extend` gives it a larger budget."""


class JobNotFinished(Conflict):
    """Only a finished job can be deleted; cancel it first."""


class NotExternal(Conflict):
    """Workers train this job; only one of the task `external`, or of a command, hands its trials out over HTTP."""


class HoldsTooMany(Conflict):
    """This loop holds as many trials as one may; it has to finish some, or give them back, before it takes another."""


class LeaseLost(Conflict):
    """This trial is no longer held under this lease: it was cancelled, or another worker holds it now."""


class DatasetInUse(Conflict):
    """A job that is not over needs this dataset; cancel the job, or wait for its end."""


class StillNeeded(Conflict):
    """The service needs this person: they are who asks, or who has the first key."""


class NameTaken(Conflict):
    """Other data has this name already; choose another name, or remove that data first."""


class BadRequest(LrtuneError):
    """The request could not be read."""


class Invalid(LrtuneError):
    """The request has fields that cannot be accepted."""


class UnusableFile(Invalid):
    """The file cannot be used as data."""


class IdempotencyKeyReused(LrtuneError):
    """This Idempotency-Key came before with another body; a new request needs a new key."""


class TooSlow(BadRequest):
    """The body took longer to come than it may."""


class TooLarge(LrtuneError):
    """The request body is too large."""


class UnsupportedEncoding(LrtuneError):
    """The request body is packed in a way that cannot be read here; accepted is gzip, or none."""


class Unauthorized(LrtuneError):
    """A valid key is needed: send the header `Authorization: Bearer <key>`."""


class Forbidden(LrtuneError):
    """This did not come from a page of this server; reload the page and try again."""


class MissingScope(Forbidden):
    """This key lacks the scope that this call needs; an admin can make one that has it."""


class NotYours(Forbidden):
    """This belongs to somebody else; only they, or an admin, can change it."""


class Later(LrtuneError):
    """Not now; ask again after `retry_after` seconds."""

    def __init__(self, detail: str = "", errors: Sequence[Rejection] = (), *, retry_after: int = 60) -> None:
        super().__init__(detail, errors)
        self.retry_after = retry_after

    @property
    def passing(self) -> bool:
        """Whether it is over after `retry_after` seconds by itself, which are few."""
        return isinstance(self, TooManyTries) or self.detail.startswith("requests_a_minute")


class QuotaReached(Later):
    """A quota is reached: the detail begins with its name. Ask again later, or ask an admin for more."""


class TooManyTries(Later):
    """Too many wrong keys came from this address; others wait for their turn, so ask again later."""


class Internal(LrtuneError):
    """The server failed on this request; its log says why."""


class UnreadableJob(Internal):
    """What a job asks for cannot be read: its row in the database is damaged."""

    def __init__(self, detail: str = "", errors: Sequence[Rejection] = (), *, job: str = "") -> None:
        super().__init__(detail, errors)
        self.job = job


class Unavailable(LrtuneError):
    """The database cannot be reached at the moment; try again soon."""


class NewerJob(UnreadableJob, Unavailable):
    """What a job asks for was written by a newer release, whose servers and workers go on with it."""


class TaskError(LrtuneError):
    """The task could not be prepared or trained."""


def _all(kind: type[LrtuneError]) -> list[type[LrtuneError]]:
    return [kind, *(each for below in kind.__subclasses__() for each in _all(below))]


def by_slug(slug: str) -> type[LrtuneError]:
    """The class of a slug; the base class for one this version does not know."""
    return {kind.slug(): kind for kind in _all(LrtuneError)}.get(slug, LrtuneError)
