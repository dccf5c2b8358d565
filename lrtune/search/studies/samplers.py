"""Each sampler of a job as Optuna's, and what it needs of the study it is asked in.

A fresh one is made for every ask, its seed made from the job's seed and the decision's number: with the job's seed
alone, a rebuilt sampler would repeat its first draw for ever. To add a sampler of Optuna's, add a case.
"""

import warnings
import zlib

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import (
    BaseSampler,
    BruteForceSampler,
    CmaEsSampler,
    GPSampler,
    QMCSampler,
    RandomSampler,
    TPESampler,
)

from lrtune.wire.strategies import Cmaes, CurveSearch, Gp, Grid, Qmc, Random, Samplers, Tpe

FLAT = (Gp, Cmaes, Qmc)  # know no conditional knobs: every knob is there in every trial
REPLAYED = (Cmaes, Qmc)  # keep something of every ask in the study, so past asks are repeated
MEMORYLESS = (Random, CurveSearch)  # draw alike whatever was tried, so they are asked in an empty study


def seeded(seed: int, number: int) -> int:
    """The seed for one decision."""
    return zlib.crc32(f"{seed}:{number}".encode())


def sampler(kind: Samplers, *, seed: int, number: int) -> BaseSampler:
    """A fresh sampler for one decision."""
    own = seeded(seed, number)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        match kind:
            case Tpe(n_startup_trials=startup, n_ei_candidates=candidates):
                return TPESampler(
                    seed=own,
                    n_startup_trials=startup,
                    n_ei_candidates=candidates,
                    multivariate=True,
                    group=True,
                    constant_liar=True,
                )
            case Gp(n_startup_trials=startup):
                return GPSampler(seed=own, n_startup_trials=startup, warn_independent_sampling=False)
            case Cmaes(n_startup_trials=startup):
                return CmaEsSampler(seed=own, n_startup_trials=startup, warn_independent_sampling=False)
            case Random() | CurveSearch():  # which is not Optuna's, see `curve/`; this is for when it has no more
                return RandomSampler(seed=own)
            case Qmc(sequence=sequence):  # one sequence for all of a job: its place in it is counted, not seeded
                return QMCSampler(qmc_type=sequence, scramble=True, seed=seed, warn_independent_sampling=False)
            case Grid():
                return every(own)


def every(seed: int) -> BaseSampler:
    """Draws what was not drawn before, from a space that has an end."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return BruteForceSampler(seed=seed)
