"""Folders of pictures: which class and which part of the data each picture belongs to, by the names alone.

Understood is CLASS/PICTURE, and with a split of one's own SPLIT/CLASS/PICTURE or CLASS/SPLIT/PICTURE; folders around
all of it count for nothing, and neither does what desktops leave behind.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import PurePosixPath

from lrtune.errors import UnusableFile
from lrtune.uploads import parts
from lrtune.uploads.parts import Part

DEBRIS = ("__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir")
ACCEPTED = "accepted is CLASS/PICTURE, one folder a class, or SPLIT/CLASS/PICTURE with train and val or test"
Folders = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a picture belongs; without a split every part is `None`."""

    name: str
    label: str
    part: Part | None = None


def debris(name: str) -> bool:
    """Whether a file is hidden, or what a desktop leaves in archives: ._x, .DS_Store, Thumbs.db ..."""
    return any(part.startswith(".") or part.lower() in DEBRIS for part in PurePosixPath(name).parts)


def arranged(names: Iterable[str]) -> tuple[list[Place], list[str]]:
    """Every picture that is used, in the order of the names, and what is to be said. Raises UnusableFile."""
    found = _unwrapped({name: _above(name) for name in sorted(names)})
    if not found:
        raise UnusableFile("there are no pictures; accepted is one folder of pictures a class")
    if rootless := next((name for name, above in found.items() if not above), None):
        raise UnusableFile(f"found {rootless[:60]!r}; {ACCEPTED}")
    split = {parts.of_folder(above[0]) for above in found.values()}
    if None not in split and len(split) > 1:
        return _split(found)
    if Part.TRAIN in split:
        _no_stranger(found, sure=len(split) > 2)
    depths = {len(above) for above in found.values()}
    if len(depths) > 1 or max(depths) > 2:
        deepest = max(found, key=lambda name: len(found[name]))
        others = ", and pictures at other depths" if len(depths) > 1 else ""
        raise UnusableFile(f"found {deepest[:60]!r}{others}; {ACCEPTED}")
    return _inside(found) if depths == {2} else ([Place(name, above[0]) for name, above in found.items()], [])


def _no_stranger(found: dict[str, Folders], *, sure: bool) -> None:
    """Refuse folders that nobody knows, beside one to train on, where it is `sure` a split or has the same classes."""
    below: dict[Part | None, set[str]] = {}
    for above in found.values():
        below.setdefault(parts.of_folder(above[0]), set()).update(above[1:])
    if None in below and (sure or below[None] & below[Part.TRAIN]):
        odd = sorted({above[0] for above in found.values() if parts.of_folder(above[0]) is None})
        raise UnusableFile(f"found the folders {parts.listed(odd)} beside a split; {ACCEPTED}")


def _above(name: str) -> Folders:
    """The folders above a picture; one that only holds another of its own name counts once."""
    return tuple(folder for folder, _ in groupby(PurePosixPath(name).parts[:-1]))


def _unwrapped(found: dict[str, Folders]) -> dict[str, Folders]:
    """The same without the folders around everything."""
    while all(len(above) > 1 for above in found.values()) and len({above[0] for above in found.values()}) == 1:
        found = {name: above[1:] for name, above in found.items()}
    return found


def _inside(found: dict[str, Folders]) -> tuple[list[Place], list[str]]:
    """Two folders above each picture, of which the outer is no split: the inner is a split, or the class."""
    split = {parts.of_folder(above[1]) for above in found.values()}
    if None not in split and len(split) > 1:
        return _split({name: (above[1], above[0]) for name, above in found.items()})
    outer = sorted({above[0] for above in found.values()})
    note = f"the innermost folders are the classes; the folders {parts.listed(outer)} around them are not"
    return [Place(name, above[1]) for name, above in found.items()], [note]


def _split(found: dict[str, Folders]) -> tuple[list[Place], list[str]]:
    """A split that the folders name. What has no class below it cannot be measured on, and is left out."""
    of = {name: Part(parts.of_folder(above[0]) or "") for name, above in found.items()}
    bare = [name for name, above in found.items() if len(above) == 1 and of[name] is not Part.TRAIN]
    labelled = [name for name in found if name not in set(bare)]
    if wrong := next((name for name in labelled if len(found[name]) != 2), None):
        raise UnusableFile(f"found {wrong[:60]!r} in a split; {ACCEPTED}")
    if Part.TRAIN not in {of[name] for name in labelled}:
        raise UnusableFile(f"found the folders {_folders(found, found)}, and no train with classes in it; {ACCEPTED}")
    held = parts.measured({of[name] for name in labelled})
    used = [name for name in labelled if of[name] in (Part.TRAIN, held)]
    notes = [_said(found, used, of, held)] if held else []
    if unused := [name for name in labelled if of[name] not in (Part.TRAIN, held)]:
        notes.append(f"not used: {_folders(found, unused)} with {len(unused)} pictures, beside {held}")
    if bare:
        notes.append(f"not used: {_folders(found, bare)} with {len(bare)} pictures, which have no class")
    return [Place(name, found[name][1], of[name] if held else None) for name in used], notes


def _said(found: dict[str, Folders], used: Sequence[str], of: dict[str, Part], held: Part | None) -> str:
    trained = [name for name in used if of[name] is Part.TRAIN]
    measured = [name for name in used if of[name] is held]
    return (
        f"the folders name a split: {_folders(found, trained)} ({len(trained)} pictures) is trained on, "
        f"{_folders(found, measured)} ({len(measured)}) is measured on"
    )


def _folders(found: dict[str, Folders], names: Iterable[str]) -> str:
    return parts.listed(sorted({found[name][0] for name in names}))
