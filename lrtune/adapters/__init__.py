"""A trial of your own loop in the framework that trains it: one file a framework, the only ones that import any.

Each needs its framework and nothing else of lrtune's extras, and sees a trial as `trial.py` says. Which optimizers they
take stands in `matching.py`, how several processes share a trial in `distributed.py`, what they tell each other in
`team.py`. Nothing in lrtune imports them, except the two methods of `lrtune.loop.LoopTrial` that are torch's.
"""
