"""What a process keeps of a job's space between decisions: candidates at random, and what is computed of each.

Which candidates a decision has is a matter of its number and the job's seed alone: those of the block drawn for it and
of the blocks before. So a process that decides again draws one block, and one that begins draws what any other would.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, TypeAlias

import numpy as np

from lrtune.caches import idle_cache
from lrtune.search.curve.encode import POINTS, points, static_knobs
from lrtune.search.engine.types import Array
from lrtune.search.studies.draw import RandomTrial
from lrtune.search.studies.samplers import seeded
from lrtune.search.studies.space import coordinates
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import AdmittedJob

BLOCKS, BLOCK = 25, 10  # that a decision has, and candidates in each
ROUNDED = 30  # binary digits of a rate, nine decimal ones, in which equal curves agree
KEPT = 2048  # configurations, of which encodings are kept

Training: TypeAlias = tuple[str | float | bytes, ...]


class Candidate(NamedTuple):
    """A configuration, and what tells its training from any other."""

    configuration: Configuration
    training: Training


class Encoding(NamedTuple):
    """A configuration over a horizon as the engine takes it; `extras` are None where it is no part of the space."""

    kind: tuple[str, str]
    extras: tuple[float, ...] | None
    curve: Array
    rise: int


class Draws:
    """The space of a job, what is drawn from it with one seed, and its configurations as numbers."""

    def __init__(self, spec: AdmittedJob) -> None:
        self.space, self._seed, self._knobs = coordinates(spec), spec.search.seed, static_knobs(spec)
        self.encoding = lru_cache(KEPT)(self._encoding)
        self._block = lru_cache(2 * BLOCKS)(self._drawn)

    def candidates(self, number: int, steps: int) -> list[Candidate]:
        """The candidates at random of a decision with this number, over a horizon."""
        return [one for block in range(number, number + BLOCKS) for one in self._block(block, steps)]

    def told_apart(self, found: Sequence[Configuration], steps: int) -> list[Candidate]:
        """Configurations by the other knobs, and by the rates over a horizon, but for rounding."""
        known = [self.encoding(one, steps) for one in found]
        curves = np.array([one.curve for one in known]).reshape(len(found), POINTS)
        mantissa, exponent = np.frexp(curves)
        alike = np.ldexp(np.rint(np.ldexp(mantissa, ROUNDED)), exponent)
        return [
            Candidate(one, (encoding.kind[0], *(encoding.extras or ()), rates.tobytes()))
            for one, encoding, rates in zip(found, known, alike, strict=True)
        ]

    def _encoding(self, one: Configuration, steps: int) -> Encoding:
        return Encoding(one.kind, self._knobs.row(one), points(one, steps), one.curve.rise(steps))

    def _drawn(self, block: int, steps: int) -> list[Candidate]:
        random = np.random.default_rng(seeded(self._seed, -1 - block))  # of no decision's own
        return self.told_apart([self.space.draw(RandomTrial(random)) for _ in range(BLOCK)], steps)


def draws(spec: AdmittedJob) -> Draws:
    """What this process keeps of a job's space: of those that it was asked about last."""
    return _kept(spec.model_dump_json())


@idle_cache(maxsize=32)  # jobs, seven megabytes each
def _kept(written: str) -> Draws:
    return Draws(AdmittedJob.model_validate_json(written))
