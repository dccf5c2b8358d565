"""Where jobs, trials, reports, events and workers live: SQLite or PostgreSQL, one SQL for both.

`tables.py` is the schema (kept by the migrations), `jobs`, `trials`, `events` and `workers` read and write one noun
each, `leases` has the verbs of a worker. Every function takes the transaction it runs in; nothing here commits.
Lock order, so that nobody waits in a circle: trials before jobs.
"""

from lrtune.store.database import Database

__all__ = ["Database"]
