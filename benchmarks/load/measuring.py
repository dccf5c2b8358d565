"""CPU by who spent it, and what a run of calls comes to."""

import math
from collections.abc import Sequence
from contextlib import suppress
from statistics import median, quantiles
from typing import Any

import psutil

from benchmarks.growth import STEPS
from benchmarks.load.connection import Seen

LOOPS = 64


class Cpu:
    """Seconds of CPU of groups of processes and of all that they have started, between two moments."""

    def __init__(self, **groups: Sequence[psutil.Process]) -> None:
        self._groups, self._before = groups, dict[str, float]()

    def start(self) -> None:
        """From here on."""
        self._before = self._now()

    def spent(self) -> dict[str, float]:
        """So much each."""
        return {name: now - self._before[name] for name, now in self._now().items()}

    def _now(self) -> dict[str, float]:
        return {name: sum(_spent(one, whole=name != "client") for one in found) for name, found in self._groups.items()}


def _spent(process: psutil.Process, *, whole: bool) -> float:
    """Of a process, and of its children, those that have ended too, where the `whole` of it counts."""
    found = process.cpu_times()
    total = float(found.user + found.system)
    if whole:
        total += found.children_user + found.children_system
        for child in process.children():
            with suppress(psutil.NoSuchProcess):  # it has ended meanwhile
                times = child.cpu_times()
                total += times.user + times.system
    return total


def cost(found: dict[str, Any], call: str) -> float:
    """Milliseconds of CPU of one call, by all processes."""
    return float(sum(value for name, value in found["cpu"].items() if name.endswith(f"ms a {call}")))


def tables(found: Sequence[dict[str, Any]]) -> str:
    """What was found of each server and storage, in two tables of Markdown."""
    lines = ["| CPU in ms: all (server or proxy / database / callers) | a claim | a report |", "| --- | ---: | ---: |"]
    for one in found:
        cells = [_cell(one[f"{call}s alone"], call) if f"{call}s alone" in one else "–" for call in ("claim", "report")]
        lines.append(f"| {one['storage']} | {cells[0]} | {cells[1]} |")
    calls = ("report", "poll", "claim", "finish")
    lines += ["", f"| everything at once, ms: p50, p99 | {' | '.join(calls)} | server's cores | errors |"]
    lines.append("| --- |" + " ---: |" * (len(calls) + 2))
    for one in found:
        if "everything at once" in one:
            crowd = one["everything at once"]
            times = crowd["calls"]
            seen = [f"{times[one]['p50']:g}, {times[one]['p99']:g}" if one in times else "–" for one in calls]
            errors = sum(crowd["errors"].values())
            lines.append(f"| {one['storage']} | {' | '.join(seen)} | {crowd['cpu']['service cores']} | {errors} |")
    return "\n".join(lines)


def _cell(found: dict[str, Any], call: str) -> str:
    parts = [found["cpu"].get(f"{who} ms a {call}") for who in ("service", "database", "client")]
    named = " / ".join("–" if part is None else f"{part:.2g}" for part in parts)
    return f"{cost(found, call):.2f} ({named})"


def value(step: int) -> float:
    """What a trial reports: from the start better than all that came before it, so that no pruner stops it."""
    return 0.5 * math.exp(-step / STEPS)


def summary(seen: Seen, seconds: float, cpu: dict[str, float], *, each: str) -> dict[str, Any]:
    """Rates, percentiles in milliseconds and the CPU for `each` call of that name."""
    made = max(1, len(seen.times[each]))
    calls = {}
    for name, times in seen.times.items():
        p99 = quantiles(times, n=100)[98] if len(times) > 1 else (times or [0.0])[0]
        calls[name] = {"a second": round(len(times) / seconds, 1), "p50": round(median(times or [0.0]), 1)}
        calls[name]["p99"] = round(p99, 1)
    cost = {f"{name} ms a {each}": round(1000 * spent / made, 2) for name, spent in cpu.items()}
    busy = {f"{name} cores": round(spent / seconds, 2) for name, spent in cpu.items()}
    return {"calls": calls, "cpu": cost | busy, "streamed": seen.streamed, "errors": dict(seen.errors)}
