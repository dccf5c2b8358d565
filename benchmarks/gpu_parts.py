"""The parts of `benchmarks.gpu`: each yields rows, what was looked at, what was found, and whether that is fine."""

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, TypedDict

import torch
from torch.optim.lr_scheduler import LambdaLR

import migrations
from benchmarks.gpu_nets import NETS, missing
from benchmarks.shared_tasks import tasks
from lrtune.optimizers import optimizer
from lrtune.store import Database, events, jobs, trials
from lrtune.task import Task, moved
from lrtune.wire.configuration import Configuration
from lrtune.wire.job import AdmittedJob, Metric, TaskSpec, Training
from lrtune.wire.results import REPORTS, Event, Job, Report, Trial, TrialState
from worker.loop import Worker
from worker.settings import Settings
from worker.tasks import own, prepare
from worker.trainer import train

LOSS = Metric(name="val_loss", goal="minimize")
CHOSEN = {"optimizer": {"name": "adamw"}, "learning_rate": 1e-3, "schedule": {"family": "cosine"}, "clip_norm": 1.0}
LEASE = 2.0  # seconds, of workers that are killed
LONG = 4.0  # seconds of a run whose steps are counted
TRIALS = 100  # after which memory is to be what it was
GROWTH = 64 * 2**20  # bytes of the host that a hundred trials may take: allocators keep some
ALONE: dict[str, Any] = {"slots": 1, "lanes": 1}
TOGETHER: dict[str, dict[str, Any]] = {"slots": {"slots": "auto"}, "lanes": {"lanes": 16}}  # settings of a worker
MANY = {
    "digits": (6, 96, 10.0),
    "images": (6, 24, 2.0),
    "text": (4, 16, 0.0),
}  # trials alone, together; how much quicker


class Row(TypedDict):
    """One line of the table: `fine` is None where there is no aim."""

    part: str
    what: str
    found: str
    aim: str
    fine: bool | None
    numbers: dict[str, Any]


class Idle(threading.Event):
    """Asks a worker to stop as soon as it has nothing to do."""

    def wait(self, timeout: float | None = None) -> bool:  # noqa: ARG002
        """Nothing is to come."""
        self.set()
        return True


class Bench:
    """A folder, a device and how large everything is."""

    def __init__(self, folder: Path, device: str, *, small: bool) -> None:
        self.folder, self.device, self.small, self._count = folder, torch.device(device), small, 0
        self.built_in = tasks(folder)

    def steps(self, many: int) -> int:
        """So many, or a twentieth of it."""
        return max(REPORTS, many // 20) if self.small else many

    def net(self, name: str) -> TaskSpec:
        """One of the eight networks as a job names it."""
        return TaskSpec(name=f"benchmarks.gpu_nets:{NETS[name][0].__name__}", params={"small": self.small})

    def made(self, spec: TaskSpec) -> Task:
        """The task of a job."""
        return prepare(spec, self.folder, own.find(spec.name) if ":" in spec.name else None)

    def service(self) -> "Service":
        """A database of its own."""
        self._count += 1
        return Service(self, self.folder / f"service-{self._count}")


class Service:
    """A database, jobs in it, and workers on it."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        folder.mkdir()
        self._bench, self._folder, self._url = bench, folder, f"sqlite:///{folder / 'lrtune.db'}"
        migrations.upgrade(self._url)

    def submit(self, task: TaskSpec, steps: int, *, many: int = 1, training: dict[str, Any] | None = None) -> str:
        """A job of some random trials."""
        spec: dict[str, Any] = {"task": task.model_dump(), "metric": LOSS.model_dump(), "horizon": {"steps": steps}}
        spec |= {"budget": {"full_runs": None, "trials": many}, "confirm": {"top": 0}, "training": training or {}}
        spec |= {"search": {"sampler": "random", "pruner": "none"}, "optimizers": ["adamw"], "clip_norm": 1.0}
        with Database(self._url).write() as tx:
            return jobs.create(tx, AdmittedJob.model_validate(spec))[0].id

    def worked(self, **more: Any) -> None:
        """Let a worker in this process do all that there is to do."""
        own_tasks = ",".join(f"benchmarks.gpu_nets:{cls.__name__}" for cls, _ in NETS.values())
        settings = Settings(database_url=self._url, data_dir=self._bench.folder, tasks=own_tasks, poll_seconds=0.02)
        here = {"device": str(self._bench.device), "state_dir": str(self._folder / "states")}
        Worker(settings.model_copy(update=here | more), Idle()).work()

    def worker(self, **more: Any) -> "subprocess.Popen[bytes]":
        """A worker as anybody starts it."""
        found = {"database_url": self._url, "data_dir": self._bench.folder, "state_dir": self._folder / "states"}
        found |= {"device": self._bench.device, "lease_seconds": LEASE, "poll_seconds": 0.02, **more}
        settings = {f"LRTUNE_{name.upper()}": str(value) for name, value in found.items()}
        return subprocess.Popen([sys.executable, "-m", "worker"], env=os.environ | settings)

    def read(self, job: str) -> tuple[Job, list[Trial], list[Event]]:
        """A job, its trials, its log."""
        with Database(self._url).read() as tx:
            return jobs.get(tx, job), trials.history(tx, job), list(events.page(tx, job, after=0, limit=9999).items)

    def until(self, job: str, true: Callable[[Job, list[Trial]], bool]) -> None:
        """Wait for something to be true of a job, or for its end."""
        while not (true(*(found := self.read(job))[:2]) or found[0].finished_at):
            time.sleep(0.02)

    def states(self) -> list[int]:
        """The bytes of each state that is kept."""
        return [one.stat().st_size for one in (self._folder / "states").rglob("*.safetensors")]


def row(what: str, found: str, *, aim: str = "", fine: bool | None = None, **numbers: Any) -> Row:
    """A line of the table."""
    return Row(part="", what=what, found=found, aim=aim, fine=fine, numbers=numbers)


def networks(bench: Bench) -> Iterator[Row]:
    """(a) Each network trained through the worker, twice in one job: none is to fail."""
    for name, (_, training) in NETS.items():
        if package := missing(name):
            yield row(name, f"not there: {package} is not installed here")
            continue
        service, start = bench.service(), time.perf_counter()
        job = service.submit(bench.net(name), bench.steps(40), many=2, training=training)
        service.worked()
        found, history, log = service.read(job)
        noted = [event.message for event in log if event.kind == "job-noted"]
        ended = ", ".join(f"{one.state} {one.value or math.nan:.3g}" for one in history)
        fine = len(history) == 2 and all(one.state is TrialState.COMPLETE for one in history)
        why = "" if fine else next((one.reason for one in history if one.reason), found.reason)
        other = [message.partition("the same: ")[2] for message in noted if "not deterministic" in message]
        words = f"{ended} in {time.perf_counter() - start:.1f} s {why} {'; '.join(other)}".strip()
        yield row(name, words, aim="complete", fine=fine, noted=noted)


def rates(bench: Bench) -> Iterator[Row]:
    """(b) Steps a second by the worker's loop, as a share of a plain loop's; on a CPU by the time that they have it."""
    clock = time.process_time if bench.device.type == "cpu" else time.perf_counter
    own_ones = [("ResNet-18", bench.net("ResNet-18"), 200), ("batch-norm MLP", bench.net("batch-norm MLP"), 1500)]
    for name, spec, many in [*((n, s, 1500) for n, (s, _) in bench.built_in.items() if n != "tabular"), *own_ones]:
        task, steps, best = bench.made(spec), bench.steps(many), {"worker": math.inf, "plain": math.inf}
        start = 0.0
        for run in (by_worker, plain, plain):  # what is imported, loaded or measured once
            start = clock()
            run(task, asked(0, REPORTS), bench.device)
        steps = min(steps, max(5 * REPORTS, round(LONG * REPORTS / (clock() - start))))
        there = ["plain", "worker"]
        for who in there + there[::-1] if bench.small else there + there[::-1] + there:
            start = clock()
            (plain if who == "plain" else by_worker)(task, asked(0, steps), bench.device)
            best[who] = min(best[who], clock() - start)
        ratio = best["plain"] / best["worker"]
        words = f"{steps / best['worker']:.0f} steps a second, {steps / best['plain']:.0f} by a plain loop: {ratio:.3f}"
        yield row(name, words, aim=">= 0.97", fine=None if bench.small else ratio >= 0.97, ratio=ratio)


def throughput(bench: Bench) -> Iterator[Row]:
    """(c) Trials an hour of small networks: one by one, and by each way of training several on one device."""
    for name, (few, many, aim) in MANY.items():
        alone = hourly(bench, name, ALONE, 3 if bench.small else few)
        yield row(f"{name}, one by one", f"{alone:,.0f} trials an hour", hourly=alone)
        gains = list[float]()
        for way, settings in TOGETHER.items():
            if unknown := settings.keys() - Settings.model_fields.keys():
                yield row(f"{name}, {way}", f"not there: this worker has no LRTUNE_{unknown.pop().upper()}")
                continue
            found = hourly(bench, name, ALONE | settings, 3 if bench.small else many)
            gains.append(found / alone)
            yield row(f"{name}, {way}", f"{found:,.0f} trials an hour, {gains[-1]:.2f} times as many", hourly=found)
        if aim and gains:
            fine = None if bench.small else max(gains) >= aim
            yield row(f"{name}, the best", f"{max(gains):.2f} times one by one", aim=f">= {aim:g}", fine=fine)


def hourly(bench: Bench, name: str, settings: dict[str, Any], many: int) -> float:
    """Trials an hour of one job of so many, by a worker with these settings, from its first start to its last end."""
    service = bench.service()
    job = service.submit(bench.built_in[name][0], bench.steps(500), many=many, training={"determinism": "off"})
    working = service.worker(**settings)
    service.until(job, lambda *_: False)
    working.terminate()
    working.wait()
    history = service.read(job)[1]
    begun = min(one.started_at for one in history if one.started_at)
    ended = max(one.finished_at for one in history if one.finished_at)
    return 3600 * len(history) / (ended - begun).total_seconds()


def states(bench: Bench) -> Iterator[Row]:
    """(d) What keeping a state costs: the same trial with and without."""
    some = [(name, bench.built_in[name][0], bench.steps(1000)) for name in ("digits", "images", "text")]
    some.append(("GPT-2 124M", bench.net("GPT-2 124M, bf16"), 6))
    for name, spec, steps in some:
        took = dict[str, float]()
        for way, room in (("warm", 0), ("without", 0), ("with", 2**36)):
            service = bench.service()
            job = service.submit(spec, steps)
            service.worked(state_bytes=room)
            (one,) = service.read(job)[1]
            assert one.started_at, one.reason
            assert one.finished_at, one.reason
            took[way] = (one.finished_at - one.started_at).total_seconds()
        each, sizes = (took["with"] - took["without"]) / len(one.reports), service.states() or [0]
        words = f"{1000 * each:.1f} ms each of {len(one.reports)} times, {max(sizes) / 1e6:.1f} MB a state, "
        words += f"{took['with'] / took['without'] - 1:+.1%} of the run"
        yield row(name, words, seconds=took, bytes=max(sizes))


def killed(bench: Bench) -> Iterator[Row]:
    """(e) A worker is killed in the middle of a trial, and another one takes it up: the same bits as undisturbed."""
    values, spec, steps = [], bench.built_in["text"][0], bench.steps(4000)
    for disturbed in (False, True):
        service = bench.service()
        job = service.submit(spec, steps, training={"determinism": "exact"})
        if disturbed:
            first = service.worker()
            service.until(job, lambda _, history: any(one.step >= steps // 3 for one in history))
            first.send_signal(signal.SIGKILL)
            first.wait()
        second = service.worker()
        service.until(job, lambda *_: False)
        second.terminate()
        second.wait()
        found, history, log = service.read(job)
        values.append([report.metrics for report in history[0].reports])
    taken = [event.message for event in log if event.kind == "trial-taken-up"]
    same = values[0] == values[1]
    words = f"{found.state}, {'the same' if same else 'other'} reports; {'; '.join(taken) or 'killed too late'}"
    yield row("killed and taken up", words, aim="the same", fine=same and bool(taken))


def memory(bench: Bench) -> Iterator[Row]:
    """(f) Memory after a hundred trials, as against after ten."""
    task, taken = bench.made(bench.net("batch-norm MLP")), list[tuple[int, int]]()
    for number in range(1, TRIALS + 1):
        by_worker(task, asked(number, 20), bench.device)
        if number in (10, TRIALS):
            on_device = torch.cuda.memory_allocated(bench.device) if bench.device.type == "cuda" else 0
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            taken.append((on_device, pages * os.sysconf("SC_PAGE_SIZE")))
    device, host = (after - before for before, after in zip(*taken, strict=True))
    words = f"{device / 1e6:+.1f} MB on the device, {host / 1e6:+.1f} MB of the host since the tenth"
    yield row(f"{TRIALS} trials", words, aim="no growth", fine=device == 0 and host < GROWTH, device=device, host=host)


def bits(bench: Bench) -> Iterator[Row]:
    """(g) The same trial trained again: the same bits under `exact`; under the others how far apart."""
    for name in ("batch-norm MLP", "ResNet-18", "ViT", "adaptive max pooling", "segmentation"):
        task, found = bench.made(bench.net(name)), dict[str, str]()
        fine: bool | None = None
        for mode in ("exact", "preferred", "off"):
            how = Training.model_validate({"determinism": mode})
            try:
                runs = [by_worker(task, asked(0, bench.steps(40)), bench.device, how) for _ in range(2)]
            except Exception as error:  # what exact refuses is a finding
                found[mode] = str(error).partition(" has no ")[0].partition("exact; ")[2] or str(error)[:60]
                continue
            apart = spread(*runs)
            found[mode] = f"{apart:.1e}" if apart else "the same bits"
            fine = apart == 0 if mode == "exact" else fine
        words = ", ".join(f"{mode}: {words}" for mode, words in found.items())
        yield row(name, words, aim="exact same", fine=fine, **found)


def asked(number: int, steps: int) -> Trial:
    """A trial of so many steps."""
    configuration = Configuration.model_validate(CHOSEN)
    running = TrialState.RUNNING
    return Trial(number=number, role="search", state=running, configuration=configuration, seed=number, horizon=steps)


def by_worker(task: Task, trial: Trial, device: torch.device, training: Training | None = None) -> Sequence[Report]:
    """A trial trained by the worker's loop; its reports."""
    reports = list[Report]()
    how = training or Training()
    train(task, trial, metric=LOSS, device=device, on_report=reports.append, should_stop=lambda: None, training=how)
    return reports


def plain(task: Task, trial: Trial, device: torch.device) -> list[float]:
    """The same trial by a loop as people write it, with torch's defaults."""
    torch.use_deterministic_algorithms(False)
    torch.manual_seed(trial.seed)
    task, chosen, losses = task.to(device), trial.configuration, list[float]()
    model = task.model().to(device)
    knobs = {k: v for k, v in optimizer("adamw").as_dict().items() if k in ("weight_decay", "eps")}
    adamw = torch.optim.AdamW(model.parameters(), lr=chosen.learning_rate, **knobs)
    factors = [rate / chosen.learning_rate for rate in chosen.learning_rates(trial.horizon)]
    schedule = LambdaLR(adamw, lambda step: factors[min(step, trial.horizon - 1)])
    since = list[torch.Tensor]()
    for step, batch in zip(range(1, trial.horizon + 1), task.batches(trial.seed), strict=False):
        adamw.zero_grad()
        loss = task.loss(model, moved(batch, device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adamw.step()
        schedule.step()
        since.append(loss.detach())
        if step % max(1, trial.horizon // REPORTS) == 0:
            model.eval()
            with torch.no_grad():
                losses.append(float(task.evaluate(model)["val_loss"]))
            model.train()
            fmean(torch.stack(since).tolist())
            since.clear()
    return losses


def spread(one: Sequence[Report], other: Sequence[Report]) -> float:
    """How far apart two runs' reports are at most, relative to them."""
    both = [(a.metrics[LOSS.name] or 0.0, b.metrics[LOSS.name] or 0.0) for a, b in zip(one, other, strict=True)]
    return max(abs(a - b) / max(abs(a), abs(b), 1e-12) for a, b in both)


PARTS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "a": networks,
    "b": rates,
    "c": throughput,
    "d": states,
    "e": killed,
    "f": memory,
    "g": bits,
}
