"""Room for training states: how much there is, and which go first where it is short.

What the search counts on goes last. A state that a trial is about to go on from stays; before it, with the best of each
job last, come the newest states of paused trials, and those of stretches that others branch from. What is written down
of no trial goes by what the files' names say.
"""

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

from lrtune.store.states import Use

# What a state is of: a stretch where other runs may leave, the end of a stage or of a schedule, a run on its way.
Kind: TypeAlias = Literal["trunk", "stage", "end", "running"]
SHARE = 4  # a quarter of the disk's free room, states included, is by default for states
ELSEWHERE = 32 * 2**30  # bytes, where nobody can say how much room there is
LEADERS = 3  # of each namespace: the ends with the best scores go after others
STALE = 3600.0  # seconds after which a half-written file, or a state on its way of no known trial, is nobody's
NAME = re.compile(
    r"([0-9a-f]{64})_(\d{1,18})_(trunk|stage|look|end|running)_(nan|[-+]?\d[\d.]*(?:e[-+]?\d+)?)_([0-9a-f]{32})\.safetensors"
)
# Ranks, the first to go first. A new state of a kind makes room of none that is above its own.
STRAY, OVER, OLD, LEADER, TRUNK, PAUSED, ON_ITS_WAY, BEGUN = range(8)
MAKES_ROOM_OF = {"end": LEADER, "running": LEADER, "trunk": TRUNK, "stage": PAUSED}


@dataclass(frozen=True, slots=True)
class Entry:
    """A state that is there."""

    path: str
    key: str
    step: int
    kind: Kind
    score: float
    size: int
    at: float  # when it was last used, in seconds


def entry(path: str, info: Mapping[str, Any], *, half: bool = False) -> Entry | None:
    """What a file's name says; half-written ones are nobody's state, but take room. A link or a pipe is no state."""
    if info.get("type") != "file" or info.get("islink"):
        return None
    at = next((info[name] for name in ("mtime", "LastModified", "last_modified", "created") if name in info), 0.0)
    seconds = at.timestamp() if isinstance(at, datetime) else float(at)
    name, size = path.rpartition("/")[2], int(info.get("size") or 0)
    if found := NAME.fullmatch(name):
        kind: Any = "stage" if found[3] == "look" else found[3]  # what earlier versions wrote
        return Entry(path, found[1], int(found[2]), kind, float(found[4]), size, seconds)
    if half and name.startswith("half-"):
        return Entry(path, "", 0, "running", float("nan"), size, seconds)
    return None


def share_of_disk(folder: str, taken: int) -> int:
    """The room for states where nobody has said how much: a share of what is free on their disk and what they take."""
    there = next(one for one in (Path(folder).absolute(), *Path(folder).absolute().parents) if one.exists())
    return (shutil.disk_usage(there).free + taken) // SHARE


def worst_first(
    entries: Sequence[Entry], uses: Mapping[str, Sequence[Use]], *, kind: Kind, now: float
) -> Iterator[Entry]:
    """What a new state of this kind may make room of, what is least likely to be used again first."""
    trunks = dict[int, int]()
    for one in entries:
        for use in uses.get(one.key, ()) if one.kind == "trunk" else ():
            trunks[use.trial] = max(use.step, trunks.get(use.trial, 0))
    leaders = _leaders(entries)

    def rank(one: Entry) -> int:
        of = uses.get(one.key, ())
        if any(use.begun for use in of):
            return BEGUN
        if any(use.paused for use in of):
            return PAUSED
        if any(use.on_its_way for use in of):
            return ON_ITS_WAY
        if any(use.resumable or (one.kind == "trunk" and use.step == trunks[use.trial]) for use in of):
            return TRUNK
        if one.kind == "running" and not of:
            return STRAY if now - one.at > STALE else ON_ITS_WAY
        if one.path in leaders:
            return LEADER
        return OVER if one.kind == "end" else OLD

    ranks = {one.path: rank(one) for one in entries}
    place = _places((one for one in entries if ranks[one.path] == PAUSED), uses)
    order = sorted(entries, key=lambda one: (ranks[one.path], -place.get(one.path, 0), one.at, one.step))
    return (one for one in order if ranks[one.path] <= MAKES_ROOM_OF[kind])


def _leaders(entries: Iterable[Entry]) -> set[str]:
    """The files of the best ends of each namespace."""
    ends: dict[str, list[Entry]] = {}
    for one in entries:
        if one.kind in ("end", "stage") and one.score == one.score:
            ends.setdefault(one.path.rpartition("/")[0], []).append(one)
    return {one.path for those in ends.values() for one in sorted(those, key=lambda one: one.score)[:LEADERS]}


def _places(paused: Iterable[Entry], uses: Mapping[str, Sequence[Use]]) -> dict[str, int]:
    """How many of its own job's stand better than each state of a paused trial."""
    jobs: dict[int, list[Entry]] = {}
    for one in paused:
        for use in uses[one.key][:1]:
            jobs.setdefault(use.job, []).append(one)
    ranked = (sorted(those, key=lambda one: (one.score != one.score, one.score)) for those in jobs.values())
    return {one.path: place for those in ranked for place, one in enumerate(those)}
