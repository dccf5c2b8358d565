"""Optuna's storages under the same reports: `trial.report` and `trial.should_prune`, as its tutorials have it.

From one process, and from several: what one process has read of finished trials spares the next report of any trial of
its own to read it again.
"""

import math
import multiprocessing
import socket
import subprocess
import sys
import time
import warnings
from multiprocessing.synchronize import Barrier
from typing import Any

import optuna
import psutil
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.storages import BaseStorage, GrpcStorageProxy, RDBStorage
from sqlalchemy import create_engine, make_url, text

from benchmarks.growth import SEEN, STEPS
from benchmarks.load.connection import Seen
from benchmarks.load.measuring import LOOPS, Cpu, summary, value
from lrtune.wire.results import report_points

POINTS = report_points(STEPS)
LONGEST = 25.0  # seconds of reports
PATIENCE = 240.0  # until all processes are there
SPAWN = multiprocessing.get_context("spawn")
GRPC = (
    "import sys, optuna; optuna.storages.run_grpc_proxy_server("
    "optuna.storages.RDBStorage(sys.argv[1]), host='localhost', port=int(sys.argv[2]))"
)


def measured(url: str, *, history: int, servers: list[psutil.Process], grpc: bool, processes: int) -> dict[str, Any]:
    """Trials of one study, reported by so many processes, through the storage itself or its gRPC proxy."""
    _quietly()
    url, name = _another(url, f"optuna_{grpc}_{processes}".lower()), "study"
    _fill(RDBStorage(url), history, name)
    what = f"Optuna's RDB storage, {processes} process{'es' * (processes > 1)}"
    if not grpc:
        return {"storage": what, **_run(url, None, name, processes, Cpu(database=servers))}
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    proxy = subprocess.Popen([sys.executable, "-c", GRPC, url, f"{port}"], stderr=subprocess.DEVNULL)
    try:
        GrpcStorageProxy(host="localhost", port=port).wait_server_ready(timeout=60)
        cpu = Cpu(service=[psutil.Process(proxy.pid)], database=servers)
        return {"storage": f"{what}, behind its gRPC proxy", **_run(url, port, name, processes, cpu)}
    finally:
        proxy.kill()
        proxy.wait()


def _quietly() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)


def _another(url: str, name: str) -> str:
    """A database of its own on the same server."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"create database {name}"))
    engine.dispose()
    return make_url(url).set(database=name).render_as_string(hide_password=False)


def _fill(storage: BaseStorage, history: int, name: str) -> None:
    study = optuna.create_study(storage=storage, study_name=name)
    space: dict[str, BaseDistribution] = {"learning_rate": FloatDistribution(1e-4, 1e-1, log=True)}
    for number in range(history):
        values = {step: 2 * math.exp(-step / STEPS) + number / history for step in SEEN}
        rate = {"learning_rate": 10 ** (-4 + 3 * (number + 0.5) / history)}
        last = values[STEPS]
        study.add_trial(
            optuna.trial.create_trial(params=rate, distributions=space, value=last, intermediate_values=values)
        )


def _run(url: str, port: int | None, name: str, processes: int, cpu: Cpu) -> dict[str, Any]:
    """Take as many trials as there are loops, and report them all, step by step."""
    together, found = SPAWN.Barrier(processes + 1), SPAWN.SimpleQueue()
    asked = (url, port, name, LOOPS // processes, together, found)
    callers = [SPAWN.Process(target=_caller, args=asked) for _ in range(processes)]
    for one in callers:
        one.start()
    summaries, times = dict[str, Any](), list[dict[str, float]]()
    cpu.start()
    for _ in range(3):  # all are there; all have claimed; all have reported
        together.wait(PATIENCE)
        times.append(cpu.spent() | {"by the clock": time.monotonic()})
    seen = [found.get() for _ in callers]
    for place, call in enumerate(("claim", "report")):
        of_all = Seen()
        of_all.times[call] = [one for each in seen for one in each[call]]
        spent = {key: times[place + 1][key] - before for key, before in times[place].items()}
        spent["client"] = sum(each[f"{call} cpu"] for each in seen)
        if call == "report" and (pruned := sum(each["pruned"] for each in seen)):
            of_all.errors["pruned"] = pruned
        summaries[f"{call}s alone"] = summary(of_all, spent.pop("by the clock"), spent, each=call)
    for one in callers:
        one.join()
    return summaries


def _caller(url: str, port: int | None, name: str, loops: int, together: Barrier, found: Any) -> None:
    """A process with some of the loops: its milliseconds of every call, and its seconds of CPU."""
    _quietly()
    storage = RDBStorage(url) if port is None else GrpcStorageProxy(host="localhost", port=port)
    sampler, pruner = optuna.samplers.RandomSampler(), optuna.pruners.MedianPruner()
    study = optuna.load_study(study_name=name, storage=storage, sampler=sampler, pruner=pruner)
    seen: dict[str, Any] = {"claim": [], "report": [], "pruned": 0}
    together.wait(PATIENCE)
    spent, held = time.process_time(), list[optuna.Trial]()
    for _ in range(loops):
        began = time.perf_counter()
        held.append(study.ask())
        held[-1].suggest_float("learning_rate", 1e-4, 1e-1, log=True)
        seen["claim"].append((time.perf_counter() - began) * 1000)
    seen["claim cpu"] = time.process_time() - spent
    together.wait(PATIENCE)
    spent, started = time.process_time(), time.monotonic()
    for step, trial in ((step, trial) for step in POINTS for trial in held):
        if time.monotonic() - started > LONGEST:
            break
        began = time.perf_counter()
        trial.report(value(step), step)
        seen["pruned"] += trial.should_prune()
        seen["report"].append((time.perf_counter() - began) * 1000)
    seen["report cpu"] = time.process_time() - spent
    together.wait(PATIENCE)
    found.put(seen)
