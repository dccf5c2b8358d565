"""Several trials of one job on one device: which are taken, and each one's hold, states and end."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, nullcontext, suppress
from functools import partial
from itertools import chain
from typing import Any, Literal

import torch

from lrtune import logs
from lrtune.analysis.prefixes import Course
from lrtune.errors import LeaseLost
from lrtune.store import leases, mates
from lrtune.task import Task
from lrtune.wire.results import TrialState
from worker.attempt import Attempt, Means
from worker.checkpoint_cache import CheckpointCache
from worker.cohort import Lane, train_together
from worker.determinism import Noticing, mode_of, words_of
from worker.lanes import Worth, measure
from worker.memory import give_back, out_of_memory
from worker.run import LiveRun
from worker.sharing import Sharing
from worker.stacked import Apart
from worker.stage import Outcome, Stage
from worker.trainer import Interrupted, telling

AUTO = 16  # trials at a time on a GPU, where nothing else is said
KNOWN = 100  # measurements and jobs that are remembered
log = logging.getLogger("lrtune.worker")


class Cohorts:
    """Trains the trials of a job together where that pays; `lanes` is the most at a time."""

    def __init__(self, lanes: int | Literal["auto"], device: torch.device, means: Means, sharing: Sharing) -> None:
        self._most = (1 if device.type == "cpu" else AUTO) if lanes == "auto" else lanes
        self._device, self._means, self._sharing = device, means, sharing
        self._worth: dict[str, Worth] = {}
        self._jobs: dict[str, int] = {}
        self._said: dict[str, bool] = {}

    def wanted(self, job_id: str) -> int:
        """How many trials of a job this worker would take at once, as far as it knows."""
        return self._jobs.get(job_id, 1)

    def mates(self, attempt: Attempt, task: Task) -> list[Attempt]:
        """Take trials that are trained together with that of an attempt, if there are enough for it to pay."""
        lease = attempt.lease
        if self._most == 1 or lease.spec.metric.name not in task.metrics:
            return []
        worth = self._known(attempt, task)
        _remember(self._jobs, lease.job_id, worth.most)
        if worth.most == 1:
            return []
        few, many, worker, ttl = worth.least - 1, worth.most - 1, self._means.worker, self._means.ttl
        found = self._means.write(lambda tx: mates.claim(tx, lease, worker, ttl=ttl, least=few, most=many))
        taken = []
        for one in found:
            with logs.about(job=one.job_id, trial=one.trial.number, worker=worker):
                taken.append(Attempt(self._means, one))
        return taken

    def train(self, attempts: Sequence[Attempt], task: Task) -> None:
        """Train their trials together and end each. What is no lane after all waits again, and is trained alone."""
        lease, left = attempts[0].lease, list(attempts)
        try:
            preferred = mode_of(lease.spec.training, self._device) == "preferred"
            noticed = Noticing(partial(_say_once, left)) if preferred else nullcontext()
            with noticed as noticing, ExitStack() as stack:
                self._train(left, task, self._known(attempts[0], task).least, noticing, stack)
        except Apart as why:
            worth = Worth.none(str(why))
            _remember(self._worth, _key(lease), worth)
            _remember(self._jobs, lease.job_id, 1)
            for attempt in left:
                attempt.end(Interrupted(worth.words))
        finally:
            give_back(self._device)

    def _train(self, left: list[Attempt], task: Task, least: int, noticing: Noticing | None, stack: ExitStack) -> None:
        """Train until none is left."""
        cache_of = partial(self._cache, task=task, stack=stack)
        lanes = dict(self._lanes(left, partial(self._lane, task=task.to(self._device), noticing=noticing), cache_of))
        steps = Counter(lane.stage.run.step for lane in lanes)
        begin = max(steps, key=lambda step: (steps[step], step), default=0)  # where most of them do
        together = [lane for lane in lanes if lane.stage.run.step == begin]
        apart = Interrupted(f"it is not trained with others, which begin at step {begin}")
        early = ((lane, apart) for lane in lanes if lane not in together)
        for lane, how in chain(early, train_together(together, least) if together else ()):
            attempt, cache = lanes[lane]
            left.remove(attempt)
            attempt.end(_closed(cache, how))

    def _lanes(
        self,
        left: list[Attempt],
        lane_of: Callable[[Attempt, CheckpointCache | None], Lane],
        cache_of: Callable[[Attempt], CheckpointCache | None],
    ) -> Iterator[tuple[Lane, tuple[Attempt, CheckpointCache | None]]]:
        """Begin each trial where the longest known beginning ends; one that cannot begin is ended."""
        for attempt in list(left):
            try:
                cache = cache_of(attempt)
                yield lane_of(attempt, cache), (attempt, cache)
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # a task may even call sys.exit(): that ends its trial, not this worker
                if out_of_memory(error):
                    raise Apart("there is no memory for so many") from error
                left.remove(attempt)
                attempt.end(error)

    def _cache(self, attempt: Attempt, *, task: Task, stack: ExitStack) -> CheckpointCache | None:
        cache = self._sharing.cache(attempt.lease, task)
        if cache:
            stack.callback(_closed, cache, None)
        return cache

    def _lane(self, attempt: Attempt, cache: CheckpointCache | None, *, task: Task, noticing: Noticing | None) -> Lane:
        spec, trial = attempt.lease.spec, attempt.lease.trial
        course = Course(trial.configuration, trial.horizon, sign=spec.metric.sign, until=trial.until)
        fresh = partial(LiveRun, task, trial, spec.training, self._device, say=attempt.say)
        run = cache.begin(fresh, course) if cache else fresh()
        stage = Stage(run, course, spec.metric, telling(attempt.on_report, noticing), cache)
        return Lane(trial.configuration, stage, attempt.should_stop)

    def _known(self, attempt: Attempt, task: Task) -> Worth:
        """How many trials like this one pay together: measured once, and said once for each optimizer of a job."""
        lease = attempt.lease
        if (worth := self._worth.get(_key(lease))) is None:
            worth = measure(task, lease.trial, lease.spec.training, self._device, self._most)
            _remember(self._worth, _key(lease), worth)
        optimizer = lease.trial.configuration.optimizer.as_dict()["name"]
        if not self._said.get(f"{lease.job_id} {optimizer}"):
            _remember(self._said, f"{lease.job_id} {optimizer}", True)
            attempt.say_once(worth.words if len(lease.spec.optimizers) == 1 else f"{optimizer}: {worth.words}")
            if words := words_of(lease.spec.training, self._device):
                attempt.say_once(words)
        return worth


def _key(lease: leases.Lease) -> str:
    """What decides how many lanes pay."""
    optimizer = lease.trial.configuration.optimizer.as_dict()
    return f"{lease.spec.task.model_dump_json()} {lease.spec.training.model_dump_json()} {optimizer}"


def _remember(known: dict[str, Any], key: str, value: Any) -> None:
    """Keep it, and no more than `KNOWN` of its kind."""
    known[key] = value
    while len(known) > KNOWN:
        del known[next(iter(known))]


def _say_once(attempts: Sequence[Attempt], words: str) -> None:
    """Have one that still holds its trial say it."""
    for attempt in [*attempts]:
        with suppress(LeaseLost):
            attempt.say_once(words)
            return


def _closed(cache: CheckpointCache | None, how: Outcome | BaseException | None) -> Any:
    """How a trial ended, once what it has left is written: nobody hears of it before. A lost lease is its end then."""
    try:
        if cache and isinstance(how, Outcome) and how.state is TrialState.DIVERGED:
            cache.forget()
        if cache:
            cache.close()
    except LeaseLost as lost:
        return lost
    return how
