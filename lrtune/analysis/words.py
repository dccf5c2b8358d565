"""How configurations and values read in a line, in the terminal, on the page and in a report. New wordings go here."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lrtune.analysis import paired
from lrtune.analysis.additive import blown_up
from lrtune.wire.configuration import Configuration
from lrtune.wire.report import FamilyFindings, Findings, Lift
from lrtune.wire.results import Baseline, Best

OPTIMIZERS = {
    "sgd": "SGD",
    "adagrad": "Adagrad",
    "rmsprop": "RMSprop",
    "adam": "Adam",
    "adamw": "AdamW",
    "nadam": "NAdam",
    "radam": "RAdam",
    "adamax": "Adamax",
    "adadelta": "Adadelta",
    "muon": "Muon",
    "schedule-free-adamw": "Schedule-Free AdamW",
    "prodigy": "Prodigy",
}  # as their papers write them
FAMILIES = {"wsd": "WSD"}
PLAIN = (0.1, 1000.0)  # rates between these are written without an exponent


def rate(value: float | None) -> str:
    """A learning rate as engineers write it, to three digits: 2.26e-2, 1e-3, 0.3."""
    if value is None:
        return "–"
    if value == 0 or PLAIN[0] <= abs(float(f"{value:.3g}")) < PLAIN[1]:
        return f"{value:.3g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def headline(configuration: Configuration) -> str:
    """A configuration as somebody says it: AdamW, peak 2.26e-2, step schedule."""
    optimizer, family = configuration.kind
    shape = "constant rate" if family == "constant" else f"{FAMILIES.get(family, family)} schedule"
    return f"{OPTIMIZERS.get(optimizer, optimizer)}, peak {rate(configuration.learning_rate)}, {shape}"


def details(configuration: Configuration) -> list[str]:
    """What the headline leaves out, a knob each: gamma 0.243, every 0.25, warm-up 5 %."""
    shape = _shape(configuration)
    return [*shape, *_common(configuration), *_unusual(configuration)]


def described(configuration: Configuration) -> str:
    """A configuration in one line; of the optimizer's knobs only those that are not as usual."""
    optimizer, family = configuration.kind
    at = f"{_call(optimizer, _unusual(configuration))} at {rate(configuration.learning_rate)}"
    return ", ".join([at, _call(family, _shape(configuration)), *_common(configuration)])


def _common(configuration: Configuration) -> list[str]:
    """Warm-up, floor and clipping, where there are any."""
    parts = [f"warm-up {percent(configuration.warmup)}"] if configuration.warmup else []
    sizes = {"floor": configuration.floor or None, "clip norm": configuration.clip_norm}
    sizes |= {"clip value": configuration.clip_value}
    return parts + [f"{name} {value:.3g}" for name, value in sizes.items() if value is not None]


def _shape(configuration: Configuration) -> list[str]:
    """The schedule's knobs; an exponential decay is smooth where its stairs have no length."""
    knobs = configuration.schedule.as_dict()
    return _shown({name: value for name, value in knobs.items() if (name, value) != ("every", 0.0)}, "family")


def _unusual(configuration: Configuration) -> list[str]:
    """The optimizer's knobs that are not as usual."""
    usual = type(configuration.optimizer)().as_dict().items()
    chosen = {name: value for name, value in configuration.optimizer.as_dict().items() if (name, value) not in usual}
    return _shown(chosen, "name")


def _shown(knobs: Mapping[str, Any], tag: str) -> list[str]:
    """Knobs to three digits; what they are called by stands under the tag."""
    others = ((name.replace("_", " "), value) for name, value in knobs.items() if name != tag)
    return [f"{name} {short(value)}" for name, value in others]


def short(value: Any) -> str:
    """A knob to three digits; one just below 1 to as many as tell it from 1, and 1000 is not 1e+03."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(short, value))}]"
    if not isinstance(value, float):
        return str(value)
    if 0.9 < value < 1:
        return f"{value:.{2 - math.floor(math.log10(1 - value))}g}"
    return f"{value:.0f}" if 999.5 <= abs(value) < 1e6 else f"{value:.3g}"


def _call(name: str, shown: Sequence[str]) -> str:
    return f"{name} ({', '.join(shown)})" if shown else name


def measured(value: float | None, interval: tuple[float, float] | None) -> str:
    """A value with its interval."""
    if value is None:
        return "no value"
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
    difference = f"the 95 % interval of the difference {over}, {low:.3g} to {high:.3g}, {why}"
    return f"{_claim(best)}: {difference}{_broken_baseline(best)}"


def wins(best: Best) -> str:
    """On how many of the seeds that both ran the answer did better than the baseline; empty where there are none."""
    if best.baseline is None or _unbeaten(best):
        return ""
    theirs, sign = {run.seed: run.value for run in best.baseline.seeds}, best.objective.sign
    both = [(run.value, theirs[run.seed]) for run in best.seeds if run.seed in theirs]
    if not both:
        return ""
    won = sum(sign * ours < sign * other for ours, other in both)
    return f"better than {label(best.baseline)} on {won} of {len(both)} seed{'s' * (len(both) > 1)}"


def brief_lift(best: Best) -> str:
    """The same without the reason; nothing is claimed that may be chance."""
    return f"{_claim(best)}{_broken_baseline(best)}"


def _broken_baseline(best: Best) -> str:
    """Over how many seeds the baseline diverged, which no difference says anything of."""
    if best.baseline is None or not best.baseline.diverged or _unbeaten(best):
        return ""
    theirs, many = label(best.baseline), best.baseline.diverged
    if best.baseline.value is None:
        return f": {theirs} diverged"
    return f"; {theirs} diverged over {'another seed' if many == 1 else f'{many} other seeds'}"


def _claim(best: Best) -> str:
    """What is claimed over the seeds over which the baseline has a value."""
    if best.baseline is None or best.baseline.value is None:
        return "no baseline to compare with"
    theirs = label(best.baseline)
    if _unbeaten(best):
        alone = best.full_runs <= 1 + len(best.seeds) * best.confirmed
        said = "nothing was trained but" if alone else "nothing beat"
        over = " over fresh seeds" if best.confirmed and not alone else ""
        return f"{said} {theirs if best.baseline.own else 'the untuned baseline'}{over}"
    found = paired.lift(best)
    if found is None:
        return f"not comparable with {theirs}, which ran over other seeds"
    if found.sure is False:
        return f"as good as {theirs}" if found.difference == 0.0 else _unsure(best, found, theirs)
    size = f"{gap(found.difference, found.relative)} {'better' if found.difference > 0 else 'worse'} than {theirs}"
    if found.difference == 0.0:
        size = f"as good as {theirs}"
    if found.sure and found.difference < 0:  # it lies outside the space, or it would be the answer
        return f"{size}, so keep those" if best.baseline.own else f"{size}, which lies outside what was searched"
    if found.sure:
        return size
    if found.seeds == 1:
        return f"{size} over the one seed that both ran, which may be chance"
    return f"{size} over the {found.seeds} seeds that both ran, which do not tell how much is chance"


def _unsure(best: Best, found: Lift, theirs: str) -> str:
    """A difference that chance may explain; less likely so where seed by seed it is always there."""
    low, high = found.interval or (0.0, 0.0)
    if low <= 0.0 <= high or best.diverged:
        return f"not surely better or worse than {theirs}"
    return f"probably {'better' if found.difference > 0 else 'worse'} than {theirs}, by how much is open"


def sampled(found: Findings) -> str:
    """Which of a large job's trials a report has read; nothing where it has read all."""
    if found.read >= found.trials:
        return ""
    return f"From the best trials and a sample: {found.read:,} of {found.trials:,}."


def fresh(best: Best) -> str:
    """On what the answer's value rests."""
    broken = f", {best.diverged} more diverged" if best.diverged else ""
    if best.confirmed:
        return f"over {len(best.seeds)} fresh seed{'s' * (len(best.seeds) > 1)}{broken}{no_interval(best)}"
    return f"in a single run, {f'and {best.diverged} over fresh seeds diverged' if best.diverged else 'not confirmed'}"


def no_interval(best: Best) -> str:
    """Why there is no interval, where the fresh seeds all came to the same value, or one of them blew up."""
    if best.interval is None and (apart := blown_up([run.value for run in best.seeds])):
        size = f"to {max(apart, key=abs):.2g}" if len(apart) == 1 else f"beyond {min(apart, key=abs):.2g}"
        return f", {len(apart)} of which blew up, {size}, so there is no interval"
    alike = best.interval is None and len(best.seeds) > 1 and len({run.value for run in best.seeds}) == 1
    return ", all the same, so there is no interval" if alike else ""


def _unbeaten(best: Best) -> bool:
    return best.baseline is not None and best.baseline.configuration == best.configuration
