"""Optuna's storages under the same reports: `trial.report` and `trial.should_prune`, as its tutorials have it."""

import math
import socket
import subprocess
import sys
import time
import warnings
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
LONGEST = 60.0  # seconds of reports
GRPC = (
    "import sys, optuna; optuna.storages.run_grpc_proxy_server("
    "optuna.storages.RDBStorage(sys.argv[1]), host='localhost', port=int(sys.argv[2]))"
)


def measured(url: str, *, history: int, servers: list[psutil.Process], grpc: bool) -> dict[str, Any]:
    """Trials of one study, one after the other, through the storage itself or its gRPC proxy."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    url, name = _another(url, f"optuna_{grpc}".lower()), "study"
    _fill(RDBStorage(url), history, name)
    cpu = Cpu(service=[], database=servers, client=[psutil.Process()])
    if not grpc:
        return {"storage": "RDB", **_run(RDBStorage(url), name, cpu)}
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    proxy = subprocess.Popen([sys.executable, "-c", GRPC, url, f"{port}"], stderr=subprocess.DEVNULL)
    try:
        storage = GrpcStorageProxy(host="localhost", port=port)
        storage.wait_server_ready(timeout=60)
        cpu = Cpu(service=[psutil.Process(proxy.pid)], database=servers, client=[psutil.Process()])
        return {"storage": "RDB behind its gRPC proxy", **_run(storage, name, cpu)}
    finally:
        proxy.kill()
        proxy.wait()


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


def _run(storage: BaseStorage, name: str, cpu: Cpu) -> dict[str, Any]:
    """Take as many trials as there are loops, and report them all, step by step."""
    sampler, pruner = optuna.samplers.RandomSampler(), optuna.pruners.MedianPruner()
    study = optuna.load_study(study_name=name, storage=storage, sampler=sampler, pruner=pruner)
    seen, held, started = Seen(), list[optuna.Trial](), time.monotonic()
    cpu.start()
    for _ in range(LOOPS):
        began = time.perf_counter()
        held.append(study.ask())
        held[-1].suggest_float("learning_rate", 1e-4, 1e-1, log=True)
        seen.times["claim"].append((time.perf_counter() - began) * 1000)
    claims = summary(seen, time.monotonic() - started, cpu.spent(), each="claim")
    seen, started = Seen(), time.monotonic()
    cpu.start()
    for step, trial in ((step, trial) for step in POINTS for trial in held):
        if time.monotonic() - started > LONGEST:
            break
        began = time.perf_counter()
        trial.report(value(step), step)
        if trial.should_prune():
            seen.errors["pruned"] += 1
        seen.times["report"].append((time.perf_counter() - began) * 1000)
    reports = summary(seen, time.monotonic() - started, cpu.spent(), each="report")
    return {"claims alone": claims, "reports alone": reports}
