"""What a trial of a loop trains with: its configuration and its rates, and whether anybody has asked for them."""

import logging
from typing import Any

from lrtune.analysis.prefixes import Course
from lrtune.wire.configuration import Configuration
from lrtune.wire.external import Handout
from lrtune.wire.results import Trial

log = logging.getLogger("lrtune.loop")


class Rated:
    """The half of a trial that says with which rates it is trained."""

    number: int
    seed: int
    steps: int
    _course: Course
    _held: Handout
    _trial: Trial
    _asked = False  # for a rate, or for the configuration, by whatever sets the optimizer's

    @property
    def configuration(self) -> Configuration:
        """The optimizer with its knobs, the peak rate, the schedule and what is around it."""
        self._asked = True
        return self._trial.configuration

    def factor(self, step: int) -> float:
        """The factor of the peak rate at a step, counted from 0."""
        self._asked = True
        return self._course.factor(step)

    def learning_rate(self, step: int = 0) -> float:
        """The learning rate of a step, counted from 0."""
        self._asked = True
        return self._course.rate(step)

    def to_send(self) -> dict[str, Any]:
        """What another process needs to train this trial and report it: number, token, seed, rates, when to report."""
        self._asked = True
        rates = self._course.rates(0, self.steps)
        sent = {"number": self.number, "token": self._held.token, "seed": self.seed, "rates": rates}
        return sent | {"report_at": self._held.report_at}

    def _say_if_unasked(self) -> None:
        """Once: a run that was trained with rates of its own says nothing of the trial's, and all trials end alike."""
        if not self._asked:
            self._asked = True
            log.warning(
                "trial %s is reported, and nobody has asked for its rates: train with trial.scheduler(optimizer), or "
                "set trial.learning_rate(step) before each update; a job whose trials all train alike has no answer",
                self.number,
            )
