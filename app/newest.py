"""The newest report of each trial that loops report: most batches are taken with no other read.

A trial may have ten thousand reports, and to read them all again with each batch costs more than all else. A batch that
goes on where the trial stands asks only how far that was, how many reports there are, and whether the metric was ever
measured. The trial's own row says how far it has got: where that is not what is kept here, all are read.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence

from lrtune import search
from lrtune.schedules import Plateau
from lrtune.store.holds import Heard, Known
from lrtune.store.leases import Lease
from lrtune.wire.external import Batch
from lrtune.wire.results import Trial

MOST = 4096  # trials, those that reported last


class Newest:
    """The newest reports by the tokens of their trials."""

    def __init__(self) -> None:
        self._known: OrderedDict[str, Known] = OrderedDict()

    def enough(self, batches: Iterable[Batch]) -> dict[str, Known]:
        """By token what is known of each trial of which no other report needs to be read: all that is sent is later."""
        found = dict[str, Known]()
        late = set[str]()  # a batch that is sent again, beside a newer one
        for batch in batches:
            known = self._known.get(batch.token)
            if known is not None and all(one.step > known.newest.step for one in batch.reports):
                found[batch.token] = known
            else:
                late.add(batch.token)
        return {token: known for token, known in found.items() if token not in late}

    def remember(self, heard: Sequence[Heard]) -> None:
        """Keep what these trials have reported last, now that it is written down."""
        for one in heard:
            lease, reports = one.held.lease, one.trial.reports
            known = self._known.pop(lease.token, None)
            if not reports or reports[-1].step != one.trial.step or _looks_back(lease, one.trial):
                continue
            if known is not None or any(lease.spec.metric.name in report.metrics for report in reports):
                self._known[lease.token] = Known(reports[-1], one.held.reported + len(one.reports))
        while len(self._known) > MOST:
            self._known.popitem(last=False)


def _looks_back(lease: Lease, trial: Trial) -> bool:
    """Whether a schedule or a pruner looks at all reports, whichever is the newest."""
    return isinstance(trial.configuration.schedule, Plateau) or search.counts_reports(lease.spec)
