"""Random draws that cost little: some hundred candidates at once are too many for a study of Optuna's.

`RandomTrial` suggests a job's knobs as a trial of Optuna's would; the knobs that it was given it gives back.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

NOTHING: Mapping[str, Any] = {}


class RandomTrial:
    """Knobs as given, the others at random."""

    def __init__(self, random: np.random.Generator, given: Mapping[str, Any] = NOTHING) -> None:
        self._random, self._given = random, given

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number between two."""
        given = self._given.get(name)
        return float(_float(self._random, low, high, log=log) if given is None else given)

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """An integer between two."""
        given = self._given.get(name)
        return int(_int(self._random, low, high, log=log) if given is None else given)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of a few."""
        return self._given[name] if name in self._given else choices[int(self._random.integers(len(choices)))]


def draw(distribution: BaseDistribution, random: np.random.Generator) -> Any:
    """A random value of a parameter."""
    match distribution:
        case CategoricalDistribution(choices=choices):
            return choices[int(random.integers(len(choices)))]
        case FloatDistribution(low=low, high=high, log=log, step=step):
            return _float(random, low, high, log=log, step=step)
        case IntDistribution(low=first, high=last, log=log, step=gap):
            return _int(random, first, last, log=log, gap=gap)
    raise TypeError(f"found {distribution!r}; accepted is a distribution of Optuna's")


def _float(random: np.random.Generator, low: float, high: float, *, log: bool, step: float | None = None) -> float:
    value = math.exp(random.uniform(math.log(low), math.log(high))) if log else random.uniform(low, high)
    return min(max(value if step is None else low + round((value - low) / step) * step, low), high)


def _int(random: np.random.Generator, first: int, last: int, *, log: bool, gap: int = 1) -> int:
    if log:
        return min(max(round(math.exp(random.uniform(math.log(first), math.log(last)))), first), last)
    return first + gap * int(random.integers((last - first) // gap + 1))
