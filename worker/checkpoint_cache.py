"""The checkpoints that a trial starts from and leaves behind: it begins where the longest known beginning ends, its own
or another trial's, and leaves checkpoints for those that come after. A checkpoint is a training state in the store.

On a CPU a state is a file before the next step begins, so that a worker that is killed loses one segment at most; once
a second a thread sees to it that the disk has what was written, so that a host that goes down loses no more than that.
On other devices, and where states lie elsewhere, writing goes on in a thread while the trial trains; where large states
come faster than they can be written, some are left out. Nothing that goes wrong here stops a trial: it is said once,
and the trial trains what it would have loaded.
"""

import math
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from lrtune.analysis.prefixes import Course, common
from lrtune.wire.job import Metric
from lrtune.wire.results import Report
from worker.cache_key import Keys
from worker.run import LiveRun
from worker.snapshot import Snapshot, Unfit, restore, take
from worker.states import Damaged, Entry, Kind, Store

WAITING_BYTES = 64 * 2**20  # of copies in memory; beyond it, states are left out until some are written
SECURE_SECONDS = 1.0  # between two waits for the disk; a second is little to train again, and waiting costs 2 ms
ROUNDS = 100  # of looking up and taking in the reports of what was found; each one knows more of them than the last


@dataclass(frozen=True, slots=True)
class Start:
    """Where a trial starts: after `step` steps, `reused` of which the trials `whose` had trained."""

    step: int
    reused: int
    whose: tuple[str, ...]


class CheckpointCache:
    """The checkpoints of one trial. `owner` names it; `say` takes the kind and the words of what goes wrong, `on_start`
    where the trial starts."""

    def __init__(
        self,
        store: Store,
        keys: Keys,
        *,
        owner: str,
        metric: Metric,
        say: Callable[[str, str], None],
        on_start: Callable[[Start], None],
    ) -> None:
        self._store, self._keys, self._owner, self._metric = store, keys, owner, metric
        self._say, self._on_start = say, on_start
        self._known: dict[str, Entry] | None = None
        self._trained: list[tuple[int, str]] = []  # who trained up to which step
        self._last: Entry | None = None
        self._works = True
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="states")
        self._saving: list[tuple[int, Future[None]]] = []  # bytes that wait, and what becomes of them
        self._written: list[Entry] = []  # files that the disk may not have yet
        self._secured = time.monotonic()

    def longest(self, course: Course) -> int:
        """The step of the longest beginning that seems to be known."""
        return max((entry.step for entry in self._candidates(course)), default=0)

    def begin(self, fresh: Callable[[], LiveRun], course: Course) -> LiveRun:
        """A run at the longest known beginning that can be read, its reports marked."""
        while (found := self._found(course)) is not None:
            entry, state = found
            run = fresh()
            try:
                restore(run, state)
            except Unfit as unfit:
                self._ignore(entry, str(unfit))
                continue
            self._start(run, state, entry)
            return run
        run = fresh()
        self._on_start(Start(0, 0, ()))
        return run

    def keep(self, run: LiveRun, course: Course) -> None:
        """Leave the state of a run where it is; while much is still waiting to be written, only that of its end."""
        self._settle(wait=run.step == course.end)
        if not self._works or sum(size for size, _ in self._saving) > WAITING_BYTES:
            return
        key = self._keys.at(course, [run.step])[run.step]
        if key in (self._known or {}):
            return
        kind: Kind = "trunk" if course.held(run.step) else "running"
        if run.step == course.end:
            kind = "end" if course.end == course.horizon else "stage"
        at_once = run.engine.device.type == "cpu" and self._store.local
        try:
            state = take(run, copy=not at_once)
        except Unfit as unfit:
            self._fails(str(unfit))
            return
        trained = [*self._trained, (run.step, self._owner)]
        state = Snapshot(state.tensors, state.notes | {"trained": trained})
        write = partial(self._store.write, self._keys.namespace, key, kind, self._score(run), state)
        if not at_once:
            self._saving.append((state.size, self._thread.submit(lambda: self._secure([write()]))))
            return
        try:
            self._written.append(write())
        except OSError as error:
            self._fails(str(error))
        if time.monotonic() - self._secured >= SECURE_SECONDS:
            self._begin_to_secure()

    def forget(self) -> None:
        """The trial has diverged: nobody goes on from what it left on its way."""
        self._settle(wait=True)
        if self._last is not None and self._last.kind == "running":
            self._store.drop(self._last)

    def close(self) -> None:
        """Wait for what is being written."""
        self._settle(wait=True)
        self._thread.shutdown()

    def _found(self, course: Course) -> tuple[Entry, Snapshot] | None:
        """The longest state that is of this very course. Where its reports change the course, the search goes on."""
        for _ in range(ROUNDS):
            state = next(filter(None, map(self._read, self._candidates(course))), None)
            if state is None:
                return None
            entry, found = state
            after = course.after(self._values(found))
            if after is course:
                return state
            agreed = min(common(course, after), entry.step)
            course = course.after((step, value) for step, value in self._values(found) if step <= agreed)
        return None

    def _candidates(self, course: Course) -> list[Entry]:
        """The known states of this course, longest first."""
        if self._known is None:
            try:
                self._known = self._store.entries(self._keys.namespace)
            except OSError as error:
                self._known = {}
                self._fails(f"the states cannot be listed: {error}")
        steps = {entry.step for entry in self._known.values() if entry.step <= course.end}
        found = [self._known[key] for key in self._keys.at(course, steps).values() if key in self._known]
        return sorted(found, key=lambda entry: -entry.step)

    def _read(self, entry: Entry) -> tuple[Entry, Snapshot] | None:
        try:
            return entry, self._store.read(entry)
        except FileNotFoundError:
            (self._known or {}).pop(entry.key, None)  # made room for
        except (Damaged, OSError) as error:
            self._ignore(entry, str(error))
        return None

    def _ignore(self, entry: Entry, why: str) -> None:
        """Trust a state no more, and take it away so that nobody else stumbles over it."""
        (self._known or {}).pop(entry.key, None)
        self._say("state-ignored", f"the state of step {entry.step} was ignored and is trained again: {why}")
        try:
            self._store.drop(entry)
        except OSError as error:
            self._say("state-ignored", f"the state of step {entry.step} could not be removed: {error}")

    def _start(self, run: LiveRun, state: Snapshot, entry: Entry) -> None:
        """Note who trained which steps of this beginning, and mark the reports of others."""
        self._trained = [(int(step), str(owner)) for step, owner in state.notes["trained"]]
        self._last = entry if self._trained[-1][1] == self._owner else None
        reused, whose, before, reports = 0, list[str](), 0, list[Report]()
        for step, owner in self._trained:
            others = owner != self._owner
            reports += [
                report.model_copy(update={"reused": others}) for report in run.reports if before < report.step <= step
            ]
            if others:
                reused += step - before
                whose.append(owner)
            before = step
        run.reports = reports
        self._on_start(Start(run.step, reused, tuple(dict.fromkeys(whose))))

    def _values(self, state: Snapshot) -> list[tuple[int, float | None]]:
        return [(one["step"], one["metrics"].get(self._metric.name)) for one in state.notes["reports"]]

    def _score(self, run: LiveRun) -> float | None:
        value = run.reports[-1].metrics.get(self._metric.name) if run.reports else None
        return None if value is None or not math.isfinite(value) else self._metric.sign * value

    def _begin_to_secure(self) -> None:
        """Have the thread see what was written safe."""
        written, self._written, self._secured = self._written, [], time.monotonic()
        self._saving.append((0, self._thread.submit(self._secure, written)))

    def _secure(self, written: list[Entry]) -> None:
        """In the thread: see states safe; the one before is of no more use where no other run can leave."""
        try:
            self._store.secure([entry for entry in written if entry.kind != "running" or entry is written[-1]])
        except OSError:
            for entry in written:
                self._store.drop(entry)
            raise
        for entry in written:
            if self._last is not None and self._last.kind == "running":
                self._store.drop(self._last)
            self._last = entry

    def _settle(self, *, wait: bool) -> None:
        """Hear how the writing went that is over, or wait for all of it."""
        if wait and self._written:
            self._begin_to_secure()
        over = [saving for _, saving in self._saving if wait or saving.done()]
        self._saving = [one for one in self._saving if one[1] not in over]
        for saving in over:
            try:
                saving.result()
            except OSError as error:
                self._fails(str(error))

    def _fails(self, why: str) -> None:
        """Say once that this trial leaves no more states."""
        if self._works:
            self._works = False
            self._say("state-not-saved", f"its state could not be saved, and none will be of this trial: {why}")
