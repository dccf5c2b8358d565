"""The parts of a data set that its own names speak of: what is trained on, and what is measured on.

Folders (`train/cat`, `val/cat`) and arrays (`x_train`, `x_val`) are read by the same words, in small letters or large.
"""

import re
from collections.abc import Collection, Mapping
from enum import StrEnum

from lrtune.errors import UnusableFile

SHOWN = 5  # names that a sentence lists


class Part(StrEnum):
    """What a part is for. Measured on is the validation part, or the test part where there is no other."""

    TRAIN = "train"
    VALIDATION = "validation"
    TEST = "test"


WORDS: Mapping[Part, tuple[str, ...]] = {
    Part.TRAIN: ("train", "training"),
    Part.VALIDATION: ("val", "valid", "validation", "dev", "eval", "evaluation"),
    Part.TEST: ("test", "testing", "holdout"),
}
PATTERNS = {part: rf"(?:{'|'.join(words)})(?:sets?)?" for part, words in WORDS.items()}
FOLDER = r"[-_ ]?(?:sets?|data|images|pictures)?"


def of_folder(name: str) -> Part | None:
    """The part that a folder's name speaks of: train, Valid, test_set ..."""
    return next((part for part, words in PATTERNS.items() if re.fullmatch(words + FOLDER, name.lower())), None)


def measured(there: Collection[Part]) -> Part | None:
    """Which of the parts is measured on; none where there is nothing but a part to train on."""
    return next((part for part in (Part.VALIDATION, Part.TEST) if part in there), None)


def one_sided(trained: Collection[str], held: Collection[str], *, train: str, held_in: str) -> list[str]:
    """What is to be said of classes on one side only. Raises UnusableFile for one that could never be learned."""
    if unknown := sorted(set(held) - set(trained)):
        raise UnusableFile(
            f"{listed(unknown)} of {held_in} is not in {train}, so it cannot be learned; needed are both"
        )
    missing = sorted(set(trained) - set(held))
    return [f"only in {train}, so never measured: {listed(missing)}"] if missing else []


def listed(names: Collection[str]) -> str:
    """The first few names, quoted and cut short."""
    some = ", ".join(repr(name[:60]) for name in list(names)[:SHOWN])
    return f"{some} and {len(names) - SHOWN} more" if len(names) > SHOWN else some
