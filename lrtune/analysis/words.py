"""How configurations and values read in a line, in the terminal, on the page and in a report. New wordings go here."""

from collections.abc import Mapping
from typing import Any

from lrtune.wire.configuration import Configuration
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
    return f"{value:.5g}" + (f" [{interval[0]:.5g}, {interval[1]:.5g}]" if interval else "")


def label(baseline: Baseline) -> str:
    """What a baseline is called beside the answer."""
    return "your own settings" if baseline.own else "untuned"


def lift(best: Best) -> str:
    """How much better than the baseline the answer is, and whether the intervals bear it out."""
    if best.baseline is None or not best.baseline.value:
        return "no baseline to compare with"
    gain = best.objective.sign * (best.baseline.value - best.value) / abs(best.baseline.value)
    words = f"{abs(gain):.1%} {'better' if gain >= 0 else 'worse'} than {label(best.baseline)}"
    ours, theirs = best.interval, best.baseline.interval
    if ours and theirs:
        apart = ours[1] < theirs[0] or theirs[1] < ours[0]
        words += "; the intervals do not overlap" if apart else "; the intervals overlap"
    return words
