"""The curve search and the forecast of a run's end: pure functions of a job's runs, without jobs, HTTP or Optuna.

`decide.py` is where to begin: what is trained next (`initial_design.py` for the first configurations, after them
`costs.py` for what each next stage costs and `gittins.py` for what it is worth). `early_stop.py` says which runs may
stop. Both ask `model.py`, one Gaussian process (`gp.py`) over the features of every learning-rate history
(`features.py`) and scores that compare values at different steps (`normalise.py`); the search also `law_model.py`, a
law of how losses follow rates (`law.py`), as far as `weighing.py` finds it better. `types.py` is what goes in and comes
out. A job is encoded for it in `lrtune/search/curve/`.
"""
