"""The search that sees the learning-rate curve, and the forecast of a run's end: pure functions of a job's runs.

Nothing here knows jobs, HTTP or Optuna (but for `sampler.py`): `view.py` is what goes in and comes out, `embed.py` the
features of a curve, `gp.py` the process, `levels.py` one scale for all steps, `model.py` all runs in one process,
`stages.py` the worth of training in stages, `options.py` what there is to train and its price, `start.py` and
`decision.py` what comes next, `forecast.py` what may stop.
How a job is told to it stands in `lrtune/search/curve/sampler.py` and `lrtune/search/curve/pruner.py`.
"""
