"""How a job says that its table is to be read; whatever it leaves out is found out from the file."""

from dataclasses import dataclass
from typing import Self

from lrtune.wire.tasks import Split, TabularParams


@dataclass(frozen=True, slots=True)
class Options:
    """`names` are the columns that a job names: where one stands in the first row, that row is a header."""

    header: bool | None = None
    decimal: str | None = None
    separator: str | None = None
    encoding: str | None = None
    missing: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, params: TabularParams) -> Self:
        """What the parameters of a job say."""
        split = params.validation
        columns = (split.column, split.groups, split.by) if isinstance(split, Split) else ()
        names = tuple(name for name in (params.target, *columns) if isinstance(name, str))
        missing = tuple(params.missing or ())
        return cls(params.header, params.decimal, params.separator, params.encoding, missing, names)

    def leaves_open(self, columns: tuple[str, ...], *, header: bool) -> bool:
        """Whether a file that was read without options, with this outcome, reads the same with these."""
        said = (self.decimal, self.separator, self.encoding)
        named = header or not any(name not in columns for name in self.names)
        return said == (None, None, None) and not self.missing and self.header in (None, header) and named
