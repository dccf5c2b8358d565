"""The answer as something to run: one file here for each framework, and `plain.py` for JSON and CSV.

A framework's own scheduler is used where one gives the same rates, and the formula where none does. The formula comes
from the family's own source, so a new family needs no line here. Text is all that is made: no framework is imported.
To add a format, write one more file and give it a row in `_WRITERS`.
"""

from collections.abc import Callable

from lrtune.errors import Invalid
from lrtune.export import deepspeed, keras, lightning, optax, plain, pytorch, timm, transformers
from lrtune.export.formulas import formula
from lrtune.export.found import Exported, Found, recorded
from lrtune.wire.horizons import AtHorizon
from lrtune.wire.results import Best, Trial

_WRITERS: dict[str, Callable[[Found], Exported]] = {
    "pytorch": pytorch.write,
    "keras": keras.write,
    "optax": optax.write,
    "transformers": transformers.write,
    "lightning": lightning.write,
    "deepspeed": deepspeed.write,
    "timm": timm.write,
    "json": plain.json,
    "csv": plain.csv,
}
FORMATS = tuple(_WRITERS)
__all__ = ["FORMATS", "Exported", "export", "formula", "recorded"]


def export(best: Best, trial: Trial, format: str, at: AtHorizon | None = None) -> Exported:
    """The answer, and the trial that found it (with its reports), written in one of `FORMATS`.

    `at` is the answer as it is carried over to another horizon, where it is to be that.
    """
    if format not in _WRITERS:
        detail = f"found the format {format!r}; accepted is one of {', '.join(FORMATS)}"
        raise Invalid(detail, [{"pointer": "/format", "detail": detail}])
    return _WRITERS[format](Found(best, recorded(best, trial), at))
