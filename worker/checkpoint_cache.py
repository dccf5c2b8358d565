"""The checkpoints that a trial starts from and leaves behind: it begins where the longest known beginning ends, its own
or another trial's, and leaves checkpoints for those that come after. A checkpoint is a training state in the store.

On a CPU a small state is a file before the next step begins, so that a worker that is killed loses one segment at
most; once a second a thread sees to it that the disk has what was written, so that a host that goes down loses no more
than that. Large ones, those of other devices, and those that lie elsewhere are written in a thread while the trial
trains; where they come faster than they can be written, some are left out, and so is a large one that takes longer to
write than to train again. What the disk has is written down for the search, which counts on nothing else. Nothing that
goes wrong here stops a trial: it is said once, and the trial trains what it would have loaded.
"""

import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial

from lrtune.analysis.prefixes import Course, common
from lrtune.wire.job import Metric
from lrtune.wire.results import Report
from worker.cache_key import Keys
from worker.packing import Damaged
from worker.room import Entry, Kind
from worker.run import LiveRun
from worker.snapshot import Snapshot, Unfit, restore, take
from worker.states import LARGE, Store

WAITING_BYTES = 64 * 2**20  # of copies in memory; beyond it, states are left out until some are written
SECURE_SECONDS = 1.0  # between two waits for the disk; a second is little to train again, and waiting costs 2 ms
ROUNDS = 100  # of looking up and taking in the reports of what was found; each one knows more of them than the last


@dataclass(frozen=True, slots=True)
class Start:
    """Where a trial starts: after `step` steps, `reused` of which the trials `whose` had trained."""

    step: int
    reused: int
    whose: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """What it takes to keep a large state of so many bytes, and to train a step, in seconds."""

    size: int
    state: float
    step: float


class CheckpointCache:
    """The checkpoints of one trial. `owner` names it; `say` takes the kind and the words of what goes wrong, `on_start`
    where the trial starts, `record` the steps of the checkpoints that it has, by their keys, and the keys of those that
    are gone, `on_cost` what a large one costs.
    """

    def __init__(
        self,
        store: Store,
        keys: Keys,
        *,
        owner: str,
        metric: Metric,
        say: Callable[[str, str], None],
        on_start: Callable[[Start], None],
        record: Callable[[Mapping[str, int], Collection[str]], None] = lambda *_: None,
        on_cost: Callable[[Cost], None] = lambda _: None,
    ) -> None:
        self._store, self._keys, self._owner, self._metric = store, keys, owner, metric
        self._say, self._on_start, self._record, self._on_cost = say, on_start, record, on_cost
        self._known: dict[str, Entry] | None = None
        self._trained: list[tuple[int, str]] = []  # who trained up to which step
        self._last: Entry | None = None
        self._works = True
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="states")
        self._saving: list[tuple[int, Future[None]]] = []  # bytes that wait, and what becomes of them
        self._written: list[Entry] = []  # files that the disk may not have yet
        self._secured = time.monotonic()
        self._began = 0, time.monotonic()  # at which step, and when
        self._away = 0.0  # the seconds since then spent here
        self._kept, self._largest = 0, 0  # the last step whose state was kept, and the bytes of the largest
        self._crowded = False  # there was no room for the stage's end

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
            after = course.after(self._values(state))
            self._record(_steps(one for one in self._candidates(after) if one is entry or _stays(one, run.step)), ())
            self._began, self._kept = (run.step, time.monotonic()), run.step
            return run
        run = fresh()
        self._began = 0, time.monotonic()
        self._on_start(Start(0, 0, ()))
        return run

    def keep(self, run: LiveRun, course: Course) -> None:
        """Leave the state of a run where it is; while much is still waiting to be written, only that of its end."""
        began = time.monotonic()
        try:
            self._settle(wait=run.step == course.end)
            if self._works and sum(size for size, _ in self._saving) <= WAITING_BYTES:
                self._keep(run, course)
        finally:
            self._away += time.monotonic() - began

    def _keep(self, run: LiveRun, course: Course) -> None:
        key = self._keys.at(course, [run.step])[run.step]
        if key in (self._known or {}):
            self._record({key: run.step}, ())
            return
        kind: Kind = "trunk" if course.held(run.step) else "running"
        if run.step == course.end:
            kind = "end" if course.end == course.horizon else "stage"
        try:
            state = take(run)
        except Unfit as unfit:
            self._fails(str(unfit))
            return
        if not self._worth(run.step, state.size):
            return
        before, self._kept, self._largest = self._kept, run.step, max(self._largest, state.size)
        trained = [*self._trained, (run.step, self._owner)]
        state = Snapshot(state.tensors, state.notes | {"trained": trained})
        if run.engine.device.type == "cpu" and self._store.local and state.size < LARGE:
            self._write_now(key, kind, self._score(run), state, before)
            return
        still = state if run.step == course.end else state.copied()  # at its end nothing changes it any more
        write = partial(self._write, key, kind, self._score(run), still, before)
        self._saving.append((state.size, self._thread.submit(lambda: self._secure(write()))))

    def _write_now(self, key: str, kind: Kind, score: float | None, state: Snapshot, before: int) -> None:
        try:
            self._written += self._write(key, kind, score, state, before)
        except OSError as error:
            self._fails(str(error))
        if time.monotonic() - self._secured >= SECURE_SECONDS:
            self._begin_to_secure()

    def _write(self, key: str, kind: Kind, score: float | None, state: Snapshot, before: int) -> list[Entry]:
        """The state that was written; nothing where there is no room for it, and the last kept is that of `before`."""
        last = self._last if self._last is not None and self._last.kind == "running" else None
        entry = self._store.write(self._keys.namespace, key, kind, score, state, instead=last)
        self._crowded = entry is None and kind == "stage"
        self._kept = before if entry is None else self._kept
        return [] if entry is None else [entry]

    def _worth(self, step: int, size: int) -> bool:
        """Whether to train again what no state has would take longer than to keep this one."""
        return (step - self._kept) * self._step_seconds(step) >= self._store.seconds(size)

    def _step_seconds(self, step: int) -> float:
        first, at = self._began
        return (time.monotonic() - at - self._away) / max(step - first, 1)

    def forget(self) -> None:
        """The trial has diverged: nobody goes on from what it left on its way."""
        self._settle(wait=True)
        if self._last is not None and self._last.kind == "running":
            self._record({}, [self._last.key])
            self._store.drop(self._last)

    def close(self) -> None:
        """Wait for what is being written."""
        self._settle(wait=True)
        crowded, self._crowded = self._crowded, False  # said once, however often this is called
        if crowded:
            self._say("state-not-saved", "there was no room for its state beside those that others are to go on from")
        if (seconds := self._store.seconds(self._largest)) and self._kept > self._began[0]:
            self._on_cost(Cost(self._largest, seconds, self._step_seconds(self._kept)))
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
            self._record({}, [entry.key])
        except (Damaged, OSError) as error:
            self._ignore(entry, str(error))
        return None

    def _ignore(self, entry: Entry, why: str) -> None:
        """Trust a state no more, and take it away so that nobody else stumbles over it."""
        (self._known or {}).pop(entry.key, None)
        self._record({}, [entry.key])
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
        stay = [one for one in written if one.kind != "running" or one is written[-1]]
        try:
            there = self._store.secure(stay)
        except OSError:
            for entry in written:
                self._store.drop(entry)
            raise
        before = [self._last] if written and self._last is not None and self._last.kind == "running" else []
        self._record(_steps(there), [one.key for one in before])
        for entry in (*before, *(one for one in written if one not in stay)):
            self._store.drop(entry)
        self._last = written[-1] if written else self._last

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


def _steps(entries: Iterable[Entry]) -> dict[str, int]:
    """The steps of states, by their keys."""
    return {entry.key: entry.step for entry in entries}


def _stays(entry: Entry, step: int) -> bool:
    """Whether a state is of the first `step` steps of a run, and there until room is made of it."""
    return entry.step <= step and entry.kind != "running"
