"""What is tried next, what is stopped early, and when a job is over: three pure functions of a job and its trials.

Optuna decides, or for `curve` and `forecast` the engine in `curves/`; this is the only room that imports Optuna, which
neither remembers nor coordinates. Nothing is kept between calls, so the same history and seed give the same answer on
every machine.

`coordinates.py` spells a configuration in Optuna's parameters, `study.py` rebuilds a study, `samplers.py` and
`pruners.py` hold one line for each strategy, `told.py` is the same for the engine, `suggest.py` proposes a
configuration, `advance.py` minds the budget and the confirming runs. A new sampler or pruner starts in
`lrtune/wire/strategies.py`.
"""

import optuna

from lrtune.search.advance import Step, advance
from lrtune.search.curve.pruner import Verdict
from lrtune.search.optuna_sampler import CurveSampler
from lrtune.search.propose import SpaceExhausted, suggest
from lrtune.search.prune import stop_reason, verdict

optuna.logging.set_verbosity(optuna.logging.ERROR)  # every rebuilt study would announce itself

__all__ = ["CurveSampler", "SpaceExhausted", "Step", "Verdict", "advance", "stop_reason", "suggest", "verdict"]
