"""The names of arrays in an npz file: which are examples, which their labels, and which are measured on.

Understood are x and y, images and labels and their like, with train, val or test before or behind: x_train, testLabels.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lrtune.errors import UnusableFile
from lrtune.uploads import parts
from lrtune.uploads.parts import PATTERNS, Part, listed

EXAMPLES = ("x", "images", "image", "imgs", "img", "pictures", "signals", "inputs", "features", "samples", "data")
LABELS = ("y", "labels", "label", "targets", "target", "classes")
ROLE = rf"(?P<role>{'|'.join((*EXAMPLES, *LABELS))})"
PART = "|".join(f"(?P<{part.name}>{words})" for part, words in PATTERNS.items())
NAME = (re.compile(rf"{ROLE}(?:{PART})?"), re.compile(rf"(?:{PART}){ROLE}"))
NEEDED = "needed are x and y, or x_train and y_train with x_val or x_test and their labels"


@dataclass(frozen=True, slots=True)
class Pair:
    """The name of an array of examples, and that of their labels."""

    x: str
    y: str


def paired(names: Sequence[str]) -> tuple[Pair, Pair | None, list[str]]:
    """What is trained on, what is measured on where the file has it, and what is to be said. Raises UnusableFile."""
    found: dict[Part | None, dict[str, str]] = {}
    for name in sorted(names, key=_rank):
        role, part = _meant(name)
        if role:
            _put(found.setdefault(part, {}), "y" if role in LABELS else "x", name)
    explicit = found.get(Part.TRAIN, {})
    train = _pair(explicit if len(explicit) == 2 else found.get(None, {}))
    if train is None:
        raise UnusableFile(f"the file has the arrays {', '.join(names)[:200] or 'none'}; {NEEDED}")
    sides = {part: len(roles) for part, roles in found.items() if part}
    side = parts.measured({part for part in sides if sides[part] == 2}) or parts.measured(sides)
    held = _pair(found[side]) if side else None
    if side and held is None:
        (alone,) = found[side].values()
        raise UnusableFile(f"the file has {alone} without its other half; {NEEDED}")
    return train, held, _said(names, train, held)


def _said(names: Sequence[str], train: Pair, held: Pair | None) -> list[str]:
    notes = [f"{train.x} with {train.y} is trained on, {held.x} with {held.y} is measured on"] if held else []
    used = {train.x, train.y, *((held.x, held.y) if held else ())}
    unused = [name for name in names if name not in used]
    return [*notes, f"not used: {', '.join(unused)[:200]}"] if unused else notes


def _meant(name: str) -> tuple[str, Part | None]:
    """The role of a name, one of EXAMPLES and LABELS or nothing, and its part."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    found = next((match for pattern in NAME if (match := pattern.fullmatch(plain))), None)
    if found is None:
        return "", None
    return found["role"], next((part for part in Part if found[part.name]), None)


def _rank(name: str) -> int:
    """The plainest of several names for the same comes first: x before images before data."""
    role = _meant(name)[0]
    return (*EXAMPLES, *LABELS, "").index(role)


def _put(pair: dict[str, str], role: str, name: str) -> None:
    """Take the first name for a role. Raises UnusableFile for a second one that is as good."""
    taken = pair.setdefault(role, name)
    if taken != name and _rank(taken) == _rank(name):
        raise UnusableFile(f"the file has {listed([taken, name])}, which could be the same; accepted is one of them")


def _pair(found: dict[str, str]) -> Pair | None:
    return Pair(**found) if len(found) == 2 else None
