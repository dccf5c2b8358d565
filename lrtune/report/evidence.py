"""What a report of a finished job rests on: the answer, its findings, and the trials worth drawing.

A client fetches it with `gather`; the server has it all (`app/reports.py`).

`lrtune/report/figures.py` draws it and `lrtune/report/document.py` writes it up; both see nothing else.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from lrtune.client import Client
from lrtune.wire.report import Findings
from lrtune.wire.results import Best, Job, Trial, TrialDetail, TrialState

BESIDE = 10  # trials drawn beside the answer and the baseline: more is a thicket


@dataclass(frozen=True, slots=True)
class Evidence:
    """A job and all that its report says.

    `trials` are all of them without reports; `drawn` are those whose curves are shown, the answer first.
    """

    job: Job
    best: Best
    findings: Findings
    trials: tuple[Trial, ...]
    drawn: tuple[TrialDetail, ...]
    snippet: str

    @property
    def answer(self) -> TrialDetail:
        """The trial in which the answer was found."""
        return self.drawn[0]

    @property
    def baseline(self) -> TrialDetail | None:
        """The baseline's run, if it was made."""
        return next((trial for trial in self.drawn[1:] if trial.role == "baseline"), None)


def gather(client: Client, job_id: str) -> Evidence:
    """Everything that a report of this job needs. Raises NoResultYet before there is an answer."""
    best, trials = client.best(job_id), tuple(client.trials(job_id))
    return Evidence(
        job=client.get(job_id),
        best=best,
        findings=client.report(job_id),
        trials=trials,
        drawn=tuple(client.trial(job_id, number) for number in worth_drawing(best, trials)),
        snippet=client.export(job_id, "pytorch"),
    )


def worth_drawing(best: Best, trials: Iterable[Trial]) -> list[int]:
    """The answer, the baseline, then the best of the others, the last places kept for what was stopped or diverged."""
    searched = [t for t in trials if t.role == "search" and t.number != best.trial]
    done = [
        (best.objective.sign * t.value, t.number)
        for t in searched
        if t.state is TrialState.COMPLETE and t.value is not None
    ]
    given_up = [t.number for t in searched if t.state in (TrialState.STOPPED, TrialState.DIVERGED) and t.step]
    few = given_up[: max(BESIDE // 3, BESIDE - len(done))]
    baseline = [t.number for t in trials if t.role == "baseline" and t.number != best.trial][-1:]
    return [best.trial, *baseline, *(number for _, number in sorted(done)[: BESIDE - len(few)]), *few]
