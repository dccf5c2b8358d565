"""How configurations and values read in a line, in the terminal, on the page and in a report. New wordings go here."""

import math
from collections.abc import Mapping
from typing import Any

from lrtune.analysis import paired
from lrtune.wire.configuration import Configuration
from lrtune.wire.report import FamilyFindings, Lift
from lrtune.wire.results import Baseline, Best


def described(configuration: Configuration) -> str:
    """A configuration in one line; of the optimizer's knobs only those that are not as usual."""
    usual = type(configuration.optimizer)().as_dict().items()
    chosen = {name: value for name, value in configuration.optimizer.as_dict().items() if (name, value) not in usual}
    optimizer = _call({"name": configuration.optimizer.as_dict()["name"], **chosen}, "name")
    parts = [f"{optimizer} at {configuration.learning_rate:.4g}", _call(configuration.schedule.as_dict(), "family")]
    if configuration.warmup:
        parts.append(f"warm-up {configuration.warmup:.1%}")
    if configuration.floor:
        parts.append(f"floor {configuration.floor:.3g}")
    clips = {"clip norm": configuration.clip_norm, "clip value": configuration.clip_value}
    parts += [f"{name} {value:.3g}" for name, value in clips.items() if value is not None]
    return ", ".join(parts)


def _call(knobs: Mapping[str, Any], tag: str) -> str:
    others = [(name, value) for name, value in knobs.items() if name != tag]
    shown = [f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in others]
    return f"{knobs[tag]} ({', '.join(shown)})" if shown else str(knobs[tag])


def measured(value: float | None, interval: tuple[float, float] | None) -> str:
    """A value with its interval."""
    if value is None:
        return "none"
    shown = [digits(one, interval) for one in (value, *(interval or ()))]
    return f"{shown[0]} [{shown[1]}, {shown[2]}]" if interval else shown[0]


def digits(value: float, interval: tuple[float, float] | None) -> str:
    """A value to five digits, or to as many as its interval takes to be seen: -1000003.2 to -1000003.1."""
    width = interval[1] - interval[0] if interval else 0.0
    needed = 2 + math.ceil(math.log10(abs(value) / width)) if value and width else 5
    return f"{value:.{min(max(needed, 5), 12)}g}"


def seeds(found: FamilyFindings) -> str:
    """Over how many seeds the best value of a family is a mean: it does not compare with a mean over others."""
    return "" if found.best_value is None else f"{found.seeds} seed{'s' * (found.seeds > 1)}"


def percent(share: float) -> str:
    """A share below one as people write it: 12 %, 3.4 %, and 99.6 % is not 100 %."""
    size = 100.0 * abs(share)
    if 0.0 < size < 0.01:
        return "less than 0.01 %"
    if 9.95 <= size < 98.5:
        return f"{size:.0f} %"
    return f"{size:.2g} %" if size < 9.95 else f"{min(size, 99.99):.4g} %"


def gap(absolute: float, relative: float | None) -> str:
    """How far two values lie apart: a percentage where that says something, else in the metric's own unit."""
    return f"{abs(absolute):.4g}" if relative is None or abs(relative) >= 1.0 else percent(relative)


def label(baseline: Baseline) -> str:
    """What a baseline is called beside the answer."""
    return "your own settings" if baseline.own else "untuned"


def lift(best: Best) -> str:
    """How much better than the baseline the answer is, and why that is sure or is not."""
    found = paired.lift(best)
    if found is None or found.interval is None or found.difference == 0.0 or _unbeaten(best):
        return brief_lift(best)
    low, high = found.interval
    why = "includes zero" if low <= 0.0 <= high else "excludes zero"
    if why == "excludes zero" and paired.overlap(best):
        why += ", but the intervals of the two overlap"
    if best.diverged:
        why += f"; it says nothing of the {best.diverged} that diverged"
    over = f"over the same {found.seeds} seeds"
    return f"{brief_lift(best)}: the 95 % interval of the difference {over}, {low:.3g} to {high:.3g}, {why}"


def brief_lift(best: Best) -> str:
    """The same without the reason; nothing is claimed that may be chance."""
    if best.baseline is None or best.baseline.value is None:
        return "no baseline to compare with"
    theirs = label(best.baseline)
    if _unbeaten(best):
        return f"nothing beat {theirs if best.baseline.own else 'the untuned baseline'}"
    found = paired.lift(best)
    if found is None:
        return f"not comparable with {theirs}, which ran over other seeds"
    if found.sure is False:
        return f"as good as {theirs}" if found.difference == 0.0 else _unsure(best, found, theirs)
    size = f"{gap(found.difference, found.relative)} {'better' if found.difference > 0 else 'worse'} than {theirs}"
    if found.difference == 0.0:
        size = f"as good as {theirs}"
    return size if found.sure else f"{size} over the one seed that both ran, which may be chance"


def _unsure(best: Best, found: Lift, theirs: str) -> str:
    """A difference that chance may explain; less likely so where seed by seed it is always there."""
    low, high = found.interval or (0.0, 0.0)
    if low <= 0.0 <= high or best.diverged:
        return f"not surely better or worse than {theirs}"
    return f"probably {'better' if found.difference > 0 else 'worse'} than {theirs}, by how much is open"


def fresh(best: Best) -> str:
    """On what the answer's value rests."""
    broken = f", {best.diverged} more diverged" if best.diverged else ""
    if best.confirmed:
        return f"over {len(best.seeds)} fresh seed{'s' * (len(best.seeds) > 1)}{broken}"
    return f"in a single run, {f'and {best.diverged} over fresh seeds diverged' if best.diverged else 'not confirmed'}"


def _unbeaten(best: Best) -> bool:
    return best.baseline is not None and best.baseline.configuration == best.configuration
