"""What travels over HTTP, which is also what the domain uses: there are no mirror classes. Pydantic, and no more.

`configuration.py` → `strategies.py` → `job.py` (what a user submits) → `results.py` (what the service answers), and
beside them `tasks.py`, `datasets.py`, `external.py`, `imports.py`, `report.py` and `charts.py`.
"""
