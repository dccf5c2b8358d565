"""What a job's answer rests on: its findings, for the API, and all of its report, as a file to send around."""

from threading import Lock

from app import curves
from lrtune.analysis.report import report
from lrtune.export import export
from lrtune.report import document
from lrtune.report.evidence import Evidence, worth_drawing
from lrtune.search import horizons
from lrtune.store import Database, jobs, trials
from lrtune.store import findings as store
from lrtune.store.findings import Basis
from lrtune.wire.horizons import AtHorizon
from lrtune.wire.job import AdmittedJob
from lrtune.wire.report import Findings
from lrtune.wire.results import Best, TrialDetail

POINTS = 2000  # of a trial's learning-rate curve
MEDIA = {"html": "text/html; charset=utf-8", "md": "text/markdown; charset=utf-8", "png": "image/png"}
_drawing = Lock()  # Matplotlib's styles are those of the process


def findings(database: Database, job_id: str) -> Findings:
    """Where good rates lie, and how sure the answer is. Raises UnknownJob, NoResultYet."""
    with database.read() as tx:
        job, best = jobs.get(tx, job_id), jobs.best(tx, job_id)
        basis = store.read(tx, job)
    return _found(job.spec, best, basis)


def file(database: Database, job_id: str, kind: str) -> bytes:
    """The report as a file of a kind. Raises UnknownJob, NoResultYet, Invalid where what draws it is missing."""
    with database.read() as tx:
        job, best = jobs.get(tx, job_id), jobs.best(tx, job_id)
        basis = store.read(tx, job)
        drawn = [trials.get(tx, job_id, number) for number in worth_drawing(best, basis.trials)]
    details = [TrialDetail(**dict(one), curve=curves.of_trial(one, job.spec.metric, POINTS)) for one in drawn]
    found = _found(job.spec, best, basis)
    snippet = export(best, drawn[0], "pytorch").text
    evidence = Evidence(job, best, found, tuple(basis.trials), tuple(details), snippet)
    with _drawing:
        return document.WRITERS[f".{kind}"](evidence)


def at_horizon(database: Database, job_id: str, steps: int) -> AtHorizon:
    """The answer as it is carried over to so many steps. Raises UnknownJob, NoResultYet."""
    with database.read() as tx:
        job, best = jobs.get(tx, job_id), jobs.best(tx, job_id)
        basis = store.read(tx, job)
    return horizons.at_horizons(job.spec, best, basis.modelled, [steps])[0]


def longer(database: Database, job_id: str) -> list[AtHorizon]:
    """What the answer would be over longer runs; nothing before there is one. Raises UnknownJob."""
    with database.read() as tx:
        job = jobs.get(tx, job_id)
        modelled = store.read(tx, job).modelled if job.best else []  # as the report does, so that both say the same
    return horizons.longer(job.spec, job.best, modelled) if job.best else []


def _found(spec: AdmittedJob, best: Best, basis: Basis) -> Findings:
    """The findings, with the answer over longer runs; no transaction is open while it thinks."""
    found = report(spec, best, basis.trials, basis.audits, basis.totals)
    return found.model_copy(update={"horizons": horizons.longer(spec, best, basis.modelled)})
