"""People and their keys. A key is long and random, so that a plain SHA-256 of it cannot be turned back."""

import hashlib
import secrets
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from lrtune.errors import StillNeeded, UnknownKey, UnknownPerson
from lrtune.store import audit_log, lookup
from lrtune.store.database import clock
from lrtune.store.tables import JobRow, KeyRow, PersonRow
from lrtune.wire.people import ADMIN, ApiKey, Caller, MadeKey, NewKey, PersonChange, Scope
from lrtune.wire.results import Page

MARK = "lrt_"  # what every key begins with, so that one that leaked is found
UNSEEN = "(sign-in)"  # in place of the beginning of a key that nobody has
SHOWN = 10  # characters of a key that are kept to recognise it by


def digest(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def make_key(tx: Session, asked: NewKey, *, by: str = "", now: datetime | None = None) -> MadeKey:
    """Make a key for somebody, who need not have been here before."""
    now, key = now or clock(tx), MARK + secrets.token_urlsafe(32)
    person(tx, asked.person, now=now)
    row = KeyRow(
        id=f"key-{secrets.token_hex(8)}",
        person=asked.person,
        name=asked.name,
        hash=digest(key),
        beginning=key[:SHOWN],
        scopes=list(asked.scopes),
        created_at=now,
    )
    tx.add(row)
    tx.flush()
    said = {"person": asked.person, "name": asked.name, "scopes": list(asked.scopes)}
    audit_log.add(tx, by, "key-made", row.id, now=now, **said)
    return MadeKey(**_view(row).model_dump(), key=key)


def session_key(tx: Session, person: str, scopes: Iterable[Scope], name: str, *, now: datetime | None = None) -> str:
    """The id of the key that somebody's sessions of a sign-in rest on, made where there is none; no one has its text.

    One with other scopes is revoked, and the sessions that began with it end.
    """
    asked = NewKey(person=person, name=name, scopes=tuple(scopes))
    held = KeyRow.person == person, KeyRow.name == name, KeyRow.revoked_at.is_(None), KeyRow.beginning == UNSEEN
    for row in tx.scalars(select(KeyRow).where(*held)):
        if tuple(row.scopes) == asked.scopes:
            return row.id
        revoke(tx, row.id, by=person, now=now)
    made = make_key(tx, asked, by=person, now=now)
    tx.get_one(KeyRow, made.id).beginning = UNSEEN
    return made.id


def keys(tx: Session, *, limit: int, cursor: str | None = None) -> Page[ApiKey]:
    """All keys, also those that were revoked, newest first. Raises Invalid."""
    query = select(KeyRow).order_by(KeyRow.created_at.desc(), KeyRow.id).limit(limit + 1)
    skip = lookup.number(cursor) if cursor else 0
    rows = tx.scalars(query.offset(skip)).all()
    return Page(
        items=[_view(row) for row in rows[:limit]], next=lookup.cursor(skip + limit) if len(rows) > limit else None
    )


def revoke(tx: Session, key_id: str, *, by: str = "", now: datetime | None = None) -> None:
    """Let a key be good for nothing any more; twice changes nothing. Raises UnknownKey."""
    row = tx.scalars(select(KeyRow).where(KeyRow.id == key_id).with_for_update()).one_or_none()
    if row is None:
        raise UnknownKey(f"there is no key {key_id[:60]!r}")
    if row.revoked_at is None:
        row.revoked_at = now or clock(tx)
        audit_log.add(tx, by, "key-revoked", row.id, now=row.revoked_at, person=row.person, name=row.name)


def caller(
    tx: Session, *, hash: str | None = None, key_id: str | None = None, admins: Collection[str] = ()
) -> tuple[Caller, dict[str, Any]] | None:
    """Whose key this is, by its hash or its id, and their own quotas; None for one that is no good.

    Nor are sessions of a sign-in that began as an admin's, once that is none of the `admins` any more.
    """
    one = KeyRow.hash == hash if hash is not None else KeyRow.id == key_id
    query = select(KeyRow, PersonRow.quotas).join(PersonRow, PersonRow.name == KeyRow.person)
    found = tx.execute(query.where(one, KeyRow.revoked_at.is_(None))).one_or_none()
    if found and found[0].beginning == UNSEEN and "admin" in found[0].scopes and found[0].person not in admins:
        return None
    return found and (Caller(found[0].person, frozenset(found[0].scopes), found[0].id), found[1])


def used(tx: Session, times: Mapping[str, datetime]) -> None:
    """Write down when keys were used last, by their ids."""
    for key_id, at in times.items():
        tx.execute(update(KeyRow).where(KeyRow.id == key_id).values(used_at=at))


def person(tx: Session, name: str, *, now: datetime) -> PersonRow:
    """Somebody's row, made where there is none; nobody removes it until the transaction ends."""
    row = tx.get(PersonRow, name, with_for_update=True)
    if row is None:
        with suppress(IntegrityError), tx.begin_nested():  # somebody may make the same at the same moment
            tx.add(PersonRow(name=name, weight=1.0, quotas={}, created_at=now))
        row = tx.get_one(PersonRow, name)
    return row


def change(tx: Session, name: str, asked: PersonChange, *, by: str = "", now: datetime | None = None) -> PersonRow:
    """Set somebody's weight and quotas."""
    now = now or clock(tx)
    row = person(tx, name, now=now)
    own = asked.quotas.model_dump(exclude_unset=True)
    if (row.weight, row.quotas) != (asked.weight, own):
        row.weight, row.quotas = asked.weight, own
        audit_log.add(tx, by, "person-set", name, now=now, weight=asked.weight, quotas=own)
    tx.flush()
    return row


def needed(name: str, *, by: str) -> str:
    """Why somebody may not be removed by somebody, in words; nothing where they may."""
    if name == by:
        return "that is you"
    return "the first key is theirs" if name == ADMIN else ""


def remove(tx: Session, name: str, *, by: str = "", now: datetime | None = None) -> None:
    """Revoke and forget somebody's keys, and forget their weight and quotas; their jobs and data stay theirs.

    Raises UnknownPerson, StillNeeded.
    """
    if why := needed(name, by=by):
        raise StillNeeded(f"{name} cannot be removed: {why}")
    row = tx.get(PersonRow, name, with_for_update=True)
    if row is None:
        raise UnknownPerson(f"nobody is called {name!r}")
    now = now or clock(tx)
    for key in tx.scalars(select(KeyRow.id).where(KeyRow.person == name, KeyRow.revoked_at.is_(None))).all():
        revoke(tx, key, by=by, now=now)
    tx.execute(delete(KeyRow).where(KeyRow.person == name))
    tx.delete(row)
    audit_log.add(tx, by, "person-removed", name, now=now)


def own_quotas(tx: Session, name: str, *, hold: bool = False) -> dict[str, Any]:
    """The quotas that were set for somebody; with `hold` nobody else asks for them until the transaction ends."""
    query = select(PersonRow.quotas).where(PersonRow.name == name)
    return dict(tx.scalar(query.with_for_update() if hold else query) or {})


def everybody(tx: Session) -> list[PersonRow]:
    """Who has keys, or was given a weight or quotas, by name."""
    return list(tx.scalars(select(PersonRow).order_by(PersonRow.name)))


def waiting_jobs(tx: Session, owner: str, states: Iterable[str]) -> int:
    """How many jobs of somebody are in some states."""
    mine = JobRow.owner == owner, JobRow.state.in_(states)
    return tx.scalar(select(func.count()).select_from(JobRow).where(*mine)) or 0


def _view(row: KeyRow) -> ApiKey:
    return ApiKey.model_validate(row, from_attributes=True)
