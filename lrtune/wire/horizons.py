"""What a job's answer says of runs that are longer or shorter than its own, as it travels.

`lrtune/search/horizons.py` works it out. A new line of it is a field here.
"""

from typing import Annotated, Literal

from pydantic import Field

from lrtune.wire.configuration import Configuration
from lrtune.wire.results import Result

MOST_STEPS = 100_000_000  # as many as a job may have
Steps = Annotated[int, Field(ge=1, le=MOST_STEPS)]
Known = Literal["run", "law", "shorter-runs", "square-root-rule"]


class AtHorizon(Result):
    """The answer of a job carried over to a run of other `steps`, which nobody has trained.

    `configuration` is that of the answer, found in `trial` over `trained_steps`, at the peak rate that is expected to
    be best over `steps`; warm-up and decay are shares of the run, so they stretch with it. `learning_rate_interval`
    holds the best peak with a probability of 95 %. `known` says what carried it over: a scaling law fitted to this
    job's learning curves, this job's runs over shorter horizons, or the square-root rule; `run` where the steps are the
    job's own. `law_share` is that law's weight in the answer, 0 to 1, by how well it forecasts this job's runs; the
    rest is the weight of the rule. `words` say all this in a sentence.
    """

    metric: str = ""
    steps: int
    configuration: Configuration
    learning_rate_interval: tuple[float, float]
    known: Known
    law_share: float
    trained_steps: int
    trial: int
    words: str
