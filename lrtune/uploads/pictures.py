"""A set of pictures, one folder a class, in a zip or a folder: what each is, what is left out, what is to be said.

`read` is the one way through a set: the server describes with it, and the worker takes its pixels from it.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from zipfile import ZipFile, ZipInfo

from lrtune.errors import UnusableFile
from lrtune.uploads import archives, parts, pixels
from lrtune.uploads.folders import Place, arranged, debris
from lrtune.uploads.parts import Part, listed
from lrtune.uploads.pixels import Damaged, Opener, Picture
from lrtune.uploads.texts import SHOWN
from lrtune.wire.datasets import Description

JPEG, PNM = (".jpg", ".jpeg", ".jpe", ".jfif"), (".ppm", ".pgm", ".pbm", ".pnm")
SUFFIXES = (".png", *JPEG, ".bmp", ".gif", ".webp", ".tif", ".tiff", *PNM)
BESIDE = (".txt", ".md", ".csv", ".json", ".xml", ".yaml", ".yml")  # what people write about their pictures
LARGEST = 64 * 1024 * 1024  # bytes of a picture, before it is decoded
MOST_PACKED = 200  # times smaller than unpacked: pictures are packed already
FREE = 1024 * 1024  # bytes from which that matters
MOST_DAMAGED = 0.05  # of a set, left out
Take = Callable[[Place, Picture], None]


@dataclass
class Seen:
    """What was seen of a set, picture by picture."""

    counts: Counter[tuple[Part | None, str]] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    remarks: Counter[str] = field(default_factory=Counter)
    wide: int = 0  # pictures of 32 bits or floats
    low: float = 0.0
    high: float = 0.0
    prints: dict[bytes, set[Part | None]] = field(default_factory=dict)
    damaged: list[Damaged] = field(default_factory=list)
    first: list[list[str | None]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, place: Place, picture: Picture) -> None:
        """One more picture."""
        width, height = picture.image.size
        self.counts[place.part, place.label] += 1
        self.sizes[width, height] += 1
        self.remarks.update(picture.remarks)
        self.prints.setdefault(picture.fingerprint(), set()).add(place.part)
        if picture.white is None:
            self.wide += 1
            low, high = picture.range
            self.low, self.high = min(self.low, low), max(self.high, high)
        if len(self.first) < SHOWN:
            self.first.append([place.label, place.name, f"{width}x{height}"])

    def leave_out(self, error: Damaged, *, of: int) -> None:
        """One that cannot be read, of so many. Raises UnusableFile when they become too many."""
        self.damaged.append(error)
        if len(self.damaged) > MOST_DAMAGED * of:
            most = f"at most {MOST_DAMAGED:.0%} of a set may be so, and are left out"
            raise UnusableFile(
                f"{self.damaged[0]}; at least {len(self.damaged)} of {of} pictures cannot be read; {most}"
            )

    @property
    def white(self) -> float:
        """What stands for white in the pictures of 32 bits or floats."""
        return pixels.white_of(self.low, self.high)

    def classes(self, part: Part | None = None) -> list[str]:
        """The classes, or those of one part."""
        return sorted({label for of, label in self.counts if part in (None, of)})

    def said(self) -> list[str]:
        """What is to be said of the set. Raises UnusableFile for one that nothing can be learned from."""
        self._learnable()
        sides = {of for of, _ in self.counts if of}
        held = parts.measured(sides)
        notes = [*self.notes, *self._left_out()]
        if sides and held is None:
            raise UnusableFile(f"{self.damaged[0]}; no other is left to measure on in the split that the folders name")
        if held:
            train, measured = self.classes(Part.TRAIN), self.classes(held)
            notes += parts.one_sided(train, measured, train="the training part", held_in=f"the {held} part")
            if both := sum(len(sides) > 1 for sides in self.prints.values()):
                notes.append(f"{both} pictures are in both parts of the split: what is measured there is too good")
        return notes + self._read_as()

    def _learnable(self) -> None:
        if len(self.classes()) < 2:
            one = listed(self.classes()) or "none"
            raise UnusableFile(f"all pictures are of one class, {one}; needed is a folder for each of two")
        if len(self.prints) == 1:
            why = ", with their transparency on white" if self.remarks[pixels.ON_WHITE] else ""
            raise UnusableFile(
                f"all {self.counts.total()} pictures are the same{why}; nothing can be learned from them"
            )

    def _left_out(self) -> list[str]:
        if not self.damaged:
            return []
        more = f", and {len(self.damaged) - SHOWN} more" if len(self.damaged) > SHOWN else ""
        return [f"left out, {len(self.damaged)} in all: {'; '.join(map(str, self.damaged[:SHOWN]))}{more}"]

    def _read_as(self) -> list[str]:
        many = dict(sorted(self.remarks.items()))
        if self.wide:
            span = f"from {self.low:g} to {self.high:g}, of which {self.white:g} is taken for white"
            many[f"of 32 bits or floats {span}"] = self.wide
        notes = [f"{count} {'picture' if count == 1 else 'pictures'} {what}" for what, count in many.items()]
        sizes = f"{len(self.sizes)} different sizes; the task `images` scales all to `size`"
        return [*notes, sizes] if len(self.sizes) > 1 else notes


def read(names: Sequence[str], opener: Opener, take: Take | None = None) -> Seen:
    """Go through a set, and `take` every picture that is used. Raises UnusableFile, by name for a bad picture."""
    places, notes = arranged(names)
    seen = Seen(notes=notes)
    for place in places:
        try:
            picture = pixels.picture(opener, place.name)
        except Damaged as error:
            seen.leave_out(error, of=len(places))
            continue
        seen.add(place, picture)
        if take:
            take(place, picture)
    return seen


def of_zip(path: Path, *, largest: int) -> Description:
    """The classes, the split and the sizes of the pictures; each is decoded once. Raises UnusableFile."""
    with archives.opened(path) as archive:
        names, notes = inside(archive, largest=largest)
        seen = read(names, archive.open)
    classes: Counter[str] = Counter()
    for (_, label), count in seen.counts.items():
        classes[label] += count
    said = seen.said() + notes
    return Description(rows=classes.total(), classes=dict(sorted(classes.items())), first=seen.first, notes=said)


def inside(archive: ZipFile, *, largest: int) -> tuple[list[str], list[str]]:
    """The names of the pictures in an archive, and what is to be said of the rest. Raises UnusableFile."""
    found = [info for info in archives.entries(archive, largest=largest) if not debris(info.filename)]
    pictures = [info for info in found if PurePosixPath(info.filename).suffix.lower() not in BESIDE]
    for info in pictures:
        _like_a_picture(info)
    names = [info.filename for info in pictures]
    beside = sorted({info.filename for info in found} - set(names))
    return names, [f"not used: {listed(beside)}"] if beside else []


def _like_a_picture(info: ZipInfo) -> None:
    packed = info.file_size > FREE and info.file_size > MOST_PACKED * max(1, info.compress_size)
    if packed or info.file_size > LARGEST:
        raise UnusableFile(
            f"the archive has {info.filename[:60]!r}, {info.compress_size} bytes that unpack to {info.file_size}; "
            f"accepted are pictures of {LARGEST} bytes, packed at most {MOST_PACKED} times"
        )
