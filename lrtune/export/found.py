"""What every format writes down: the answer, the curve that its run followed, and where the numbers come from."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lrtune.analysis.prefixes import Course
from lrtune.analysis.words import fresh, measured
from lrtune.schedules import Curve, Schedule
from lrtune.wire.configuration import Configuration
from lrtune.wire.horizons import AtHorizon
from lrtune.wire.results import Best, Trial


@dataclass(frozen=True, slots=True)
class Exported:
    """A file's text in pieces that are made as they are asked for, what kind of file it is, and a name for it."""

    pieces: Callable[[], Iterator[str]]
    media_type: str
    filename: str

    @property
    def text(self) -> str:
        """The whole of it."""
        return "".join(self.pieces())

    def beginning(self, length: int) -> str:
        """At most the first `length` characters."""
        text = ""
        for piece in self.pieces():
            text += piece
            if len(text) >= length:
                break
        return text[:length]


@dataclass(frozen=True, slots=True)
class Found:
    """An answer with the curve that the run followed; `rise` steps of warm-up, then the family over `span` steps."""

    best: Best
    curve: Curve
    at: AtHorizon | None = None  # the horizon that it is carried over to

    @property
    def configuration(self) -> Configuration:
        """What won, at the peak of the horizon that it is carried over to."""
        return self.at.configuration if self.at else self.best.configuration

    @property
    def steps(self) -> int:
        """Of the run."""
        return self.at.steps if self.at else self.best.steps

    @property
    def rise(self) -> int:
        """The steps that warm up."""
        return self.curve.rise(self.steps)

    @property
    def span(self) -> int:
        """The steps after them."""
        return self.steps - self.rise

    @property
    def top(self) -> float:
        """The factor that the warm-up rises to."""
        return dataclasses.replace(self.curve, floor=0.0).over(self.steps)(self.rise - 1) if self.rise else 1.0

    @property
    def family(self) -> Schedule:
        """The family as it runs over `span` steps."""
        return self.curve.family.on_steps(self.span)

    @property
    def free(self) -> bool:
        """Whether the floor never bites, so that the family alone is the curve."""
        if self.curve.floor == 0.0:
            return True
        raw = dataclasses.replace(self.curve, floor=0.0)
        factor = raw.over(self.steps)
        return all(factor(step) >= self.curve.floor for step in raw.breakpoints(self.steps))


def recorded(best: Best, trial: Trial) -> Curve:
    """The curve that the trial followed: what its reports made of a schedule that looks at the loss."""
    return Course.of(trial, best.objective).curve


def script(found: Found, name: str, *parts: str) -> Exported:
    """A Python file that opens with where its numbers come from."""
    text = "\n\n".join(part.rstrip("\n") for part in (provenance(found), *parts) if part)
    return Exported(lambda: iter([text + "\n"]), "text/x-python", name)


def provenance(found: Found) -> str:
    """Where these numbers come from, as comments for whoever finds them in a year."""
    best = found.best
    metric = best.metric.encode("unicode_escape").decode()  # a name must not be able to end the comment
    lines = [
        f"# Found by lrtune: trial {best.trial}, {best.full_runs:g} full runs of {best.steps} steps.",
        f"# {metric} {measured(best.value, best.interval)} {fresh(best)}.",
    ]
    if found.at and found.at.known != "run":
        lines.insert(1, f"# Carried over to runs that nobody has trained: {found.at.words}.")
    if best.baseline is not None and best.baseline.value is not None:
        name = "Your own settings" if best.baseline.own else "Untuned baseline"
        lines.append(f"# {name}: {measured(best.baseline.value, best.baseline.interval)}.")
    return "\n".join(lines + [f"# {line}" for line in in_words(found)])


def _clipping(norm: float | None, value: float | None) -> str:
    """How gradients are clipped; a script of the user's own may do it without its job knowing."""
    if norm is None and value is None:
        return "Gradients are not clipped; where your own script clipped, clip here, too."
    return f"Gradients clipped: norm {norm}, value {value}."


def in_words(found: Found) -> list[str]:
    """The configuration in words, whatever the framework has a name for."""
    chosen = found.configuration
    knobs = {name: value for name, value in chosen.optimizer.as_dict().items() if name != "name"}
    schedule = found.configuration.schedule.as_dict()
    family = schedule.pop("family")
    lines = [
        f"Optimizer {chosen.optimizer.as_dict()['name']}{_listed(knobs)}, peak rate {chosen.learning_rate!r}.",
        f"Schedule {family}{_listed(schedule)}, warm-up {found.rise} steps, floor {found.curve.floor!r} of the peak.",
        _clipping(chosen.clip_norm, chosen.clip_value),
    ]
    if found.curve.family != chosen.schedule:
        lines.append("The schedule looks at the loss; what follows are the stages that the winning run took.")
    return lines


def _listed(knobs: dict[str, object]) -> str:
    return f" ({', '.join(f'{name} {value}' for name, value in knobs.items())})" if knobs else ""
