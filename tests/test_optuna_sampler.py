"""`CurveSampler` keeps what Optuna asks of any sampler: the contract suite that Optuna ships, whole.

Optuna ships none for pruners, and there is no pruner of ours for studies: `forecast` judges the trials of a job.
"""

from collections.abc import Callable

import pytest
from optuna.testing.pytest_samplers import BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase

from lrtune.search import CurveSampler


def rates(params: dict[str, object]) -> list[float]:
    """A falling line whose peak depends on every number."""
    peak = 1e-3 * 2.0 ** (sum(value for value in params.values() if isinstance(value, int | float)) / 10)
    return [peak * (1 - (step + 0.5) / 64) for step in range(64)]


class TestContract(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    @pytest.fixture
    def sampler(self) -> Callable[[], CurveSampler]:
        return lambda: CurveSampler(rates)
