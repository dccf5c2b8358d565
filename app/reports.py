"""What a job's answer rests on: its findings, for the API, and all of its report, as a file to send around."""

from threading import Lock

from app import curves
from lrtune.analysis.report import report
from lrtune.export import export
from lrtune.report import document
from lrtune.report.evidence import Evidence, worth_drawing
from lrtune.search import horizons
from lrtune.store import Database, audits, jobs, trials
from lrtune.wire.report import Findings
from lrtune.wire.results import TrialDetail

POINTS = 2000  # of a trial's learning-rate curve
MEDIA = {"html": "text/html; charset=utf-8", "md": "text/markdown; charset=utf-8", "png": "image/png"}
_drawing = Lock()  # Matplotlib's styles are those of the process


def findings(database: Database, job_id: str) -> Findings:
    """Where good rates lie, and how sure the answer is. Raises UnknownJob, NoResultYet."""
    with database.read() as tx:
        spec, best = jobs.admitted(tx, job_id), jobs.best(tx, job_id)
        history, known = trials.history(tx, job_id), audits.read(tx, job_id)
    longer = horizons.longer(spec, best, history)  # no transaction is open while it thinks
    return report(spec, best, history, known).model_copy(update={"horizons": longer})


def file(database: Database, job_id: str, kind: str) -> bytes:
    """The report as a file of a kind. Raises UnknownJob, NoResultYet, Invalid where what draws it is missing."""
    found = findings(database, job_id)
    with database.read() as tx:
        job, best, history = jobs.get(tx, job_id), jobs.best(tx, job_id), trials.history(tx, job_id)
        snippet = export(best, trials.get(tx, job_id, best.trial), "pytorch").text
    numbered = {trial.number: trial for trial in history}
    drawn = [numbered[number] for number in worth_drawing(best, history)]
    details = [TrialDetail(**dict(one), curve=curves.of_trial(one, job.spec.metric, POINTS)) for one in drawn]
    evidence = Evidence(job, best, found, tuple(history), tuple(details), snippet)
    with _drawing:
        return document.WRITERS[f".{kind}"](evidence)
