"""What a job's answer rests on: its findings, for the API, and all of its report, as a file to send around."""

from collections.abc import Sequence
from threading import Lock

from app import curves
from lrtune.analysis.report import report
from lrtune.export import export
from lrtune.report import document
from lrtune.report.evidence import Evidence, worth_drawing
from lrtune.search import horizons
from lrtune.store import Database, audits, charts, jobs, trials
from lrtune.wire.horizons import AtHorizon
from lrtune.wire.job import AdmittedJob
from lrtune.wire.report import Findings
from lrtune.wire.results import Audits, Best, Trial, TrialDetail

POINTS = 2000  # of a trial's learning-rate curve
MEDIA = {"html": "text/html; charset=utf-8", "md": "text/markdown; charset=utf-8", "png": "image/png"}
_drawing = Lock()  # Matplotlib's styles are those of the process


def findings(database: Database, job_id: str) -> Findings:
    """Where good rates lie, and how sure the answer is. Raises UnknownJob, NoResultYet."""
    with database.read() as tx:
        spec, best = jobs.admitted(tx, job_id), jobs.best(tx, job_id)
        history, known = trials.history(tx, job_id), audits.read(tx, job_id)
    return _found(spec, best, history, known)


def file(database: Database, job_id: str, kind: str) -> bytes:
    """The report as a file of a kind. Raises UnknownJob, NoResultYet, Invalid where what draws it is missing."""
    with database.read() as tx:
        job, best, history = jobs.get(tx, job_id), jobs.best(tx, job_id), trials.history(tx, job_id)
        known, snippet = audits.read(tx, job_id), export(best, trials.get(tx, job_id, best.trial), "pytorch").text
    numbered = {trial.number: trial for trial in history}
    drawn = [numbered[number] for number in worth_drawing(best, history)]
    details = [TrialDetail(**dict(one), curve=curves.of_trial(one, job.spec.metric, POINTS)) for one in drawn]
    found = _found(job.spec, best, history, known)
    evidence = Evidence(job, best, found, tuple(history), tuple(details), snippet)
    with _drawing:
        return document.WRITERS[f".{kind}"](evidence)


def carried_over(database: Database, job_id: str, steps: int) -> tuple[Best, AtHorizon]:
    """A job's answer, and what it would be over so many steps. Raises UnknownJob, NoResultYet."""
    with database.read() as tx:
        found, spec, history = jobs.best(tx, job_id), jobs.admitted(tx, job_id), trials.history(tx, job_id)
    return found, horizons.at_horizons(spec, found, history, [steps])[0]


def longer(database: Database, job_id: str) -> list[AtHorizon]:
    """What the answer would be over longer runs; nothing before there is one. Raises UnknownJob."""
    with database.read() as tx:
        job = jobs.get(tx, job_id)
        history = charts.modelled(tx, job) if job.best else []
    return horizons.longer(job.spec, job.best, history) if job.best else []


def _found(spec: AdmittedJob, best: Best, history: Sequence[Trial], known: Audits) -> Findings:
    """The findings, with the answer over longer runs; no transaction is open while it thinks."""
    at = horizons.longer(spec, best, history)
    return report(spec, best, history, known).model_copy(update={"horizons": at})
