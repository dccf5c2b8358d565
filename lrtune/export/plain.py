"""The answer as data: JSON and CSV with the exact rate of every step."""

import json as lib

from lrtune.export.found import Exported, Found


def json(found: Found) -> Exported:
    """The answer, and the rate of every step."""
    answer = found.best.model_dump(mode="json") | {"learning_rates": found.rates()}
    return Exported(lib.dumps(answer, indent=2) + "\n", "application/json", "learning_rate.json")


def csv(found: Found) -> Exported:
    """Step and rate."""
    lines = [f"{step},{rate!r}\n" for step, rate in enumerate(found.rates())]
    return Exported("step,learning_rate\n" + "".join(lines), "text/csv", "learning_rate.csv")
