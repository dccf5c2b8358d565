"""What is tried next, what is stopped early, and when a job is over: three pure functions of a job and its trials.

Optuna decides, or for `curve` and `forecast` the engine in `engine/`; this is the only room that imports Optuna, which
neither remembers nor coordinates. Nothing is kept between calls, so the same history and seed give the same answer on
every machine; only a `verdict` may be given what the forecasts before it were `fitted` to.

`advance.py` minds the budget and the confirming runs, `propose.py` says what is trained next, `prune.py` what stops. On
Optuna's side `studies/space.py` is a configuration in Optuna's parameters, `studies/study.py` rebuilds a study, and
`studies/samplers.py` and `prune.py` hold one line for each strategy; `curve/` is the same for the engine. A new sampler
or pruner starts in `lrtune/wire/strategies.py`.
"""

import optuna

from lrtune.search.advance import advance
from lrtune.search.asked import filled, refused
from lrtune.search.baseline import reference
from lrtune.search.curve.beginnings import Beginnings
from lrtune.search.curve.pruner import PruneVerdict, fitted
from lrtune.search.curve.sampler import staged
from lrtune.search.optuna_sampler import CurveSampler
from lrtune.search.propose import SpaceExhausted, begun, suggest
from lrtune.search.prune import compares_running, counts_reports, may_act, verdict, verdicts

optuna.logging.set_verbosity(optuna.logging.ERROR)  # every rebuilt study would announce itself

__all__ = [
    "Beginnings",
    "CurveSampler",
    "PruneVerdict",
    "SpaceExhausted",
    "advance",
    "begun",
    "compares_running",
    "counts_reports",
    "filled",
    "fitted",
    "may_act",
    "reference",
    "refused",
    "staged",
    "suggest",
    "verdict",
    "verdicts",
]
