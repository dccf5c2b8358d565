"""Everything that is promised of a GPU, on one card, in six minutes: `python -m benchmarks.gpu [--json FILE]`.

(a) eight networks as people write them, each trained through the worker; (b) steps a second against a plain loop; (c)
trials an hour one by one, side by side and as one batch; (d) what a state costs; (e) a worker killed and taken up; (f)
memory after a hundred trials; (g) the same bits under `exact`, the spread under `preferred`. Each part is a process
with its own time, so that what fails in one costs only its rows. `--device cpu --small` tries it all in miniature;
`--only a,g` some of it. It needs the extra `worker` and Alembic, `transformers` for one of the networks, no network
connection, and leaves nothing behind.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_parts import PARTS, Bench, Row

SECONDS = {"a": 85.0, "b": 50.0, "c": 115.0, "d": 40.0, "e": 25.0, "f": 15.0, "g": 25.0}  # 355 in all
PATIENT = 10  # times as long, on a CPU
WIDE = 100  # characters of what was found


def main() -> int:
    """Run the parts, and print the table; the exit status is 1 where an aim was missed."""
    parser = argparse.ArgumentParser("python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="in miniature")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between")
    parser.add_argument("--json", type=Path, help="where the rows go as well")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.device.startswith("cuda") and not torch.cuda.is_available():
        print("--device: found cuda; torch finds no GPU here, accepted is cpu", file=sys.stderr)
        return 2
    if wrong := [part for part in asked.only.split(",") if part not in PARTS]:
        print(f"--only: found {', '.join(wrong)}; accepted are {', '.join(PARTS)}", file=sys.stderr)
        return 2
    if asked.part:
        return alone(asked)
    card, start = machine(asked.device), time.monotonic()
    print(", ".join(f"{name} {value}" for name, value in card.items()), flush=True)
    rows = [row for part in asked.only.split(",") for row in supervised(part, asked)]
    seconds = time.monotonic() - start
    missed = sum(row["fine"] is False for row in rows)
    print(f"{len(rows)} rows in {seconds:.0f} s, of which {missed} miss their aim")
    if asked.json:
        asked.json.write_text(json.dumps({"machine": card, "seconds": round(seconds), "rows": rows}, indent=1))
    return min(missed, 1)


def machine(device: str) -> dict[str, Any]:
    """What it ran on."""
    found = {"torch": torch.__version__, "python": sys.version.split()[0], "cores": os.cpu_count()}
    if not device.startswith("cuda"):
        return {"device": device} | found
    about = torch.cuda.get_device_properties(device)
    card = {"device": about.name, "memory": f"{about.total_memory / 1e9:.0f} GB", "cuda": torch.version.cuda}
    return card | found


def supervised(part: str, asked: argparse.Namespace) -> list[Row]:
    """The rows of a part, run in a process of its own until its time is over, printed as they are known."""
    limit = SECONDS[part] * (1 if asked.device.startswith("cuda") else PATIENT)
    with tempfile.TemporaryDirectory() as folder:
        into = Path(folder) / "rows"
        into.touch()
        options = ["--device", asked.device, "--part", part, "--into", str(into), *(["--small"] if asked.small else [])]
        start = time.monotonic()
        log = (Path(folder) / "log").open("w+")
        process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.gpu", *options], stdout=log, stderr=log, start_new_session=True
        )
        how = "ended"
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            how = f"was stopped after its {limit:.0f} s"
        finally:
            _kill(process)
        rows: list[Row] = [json.loads(line) for line in into.read_text().splitlines()]
        if process.returncode:
            log.seek(0)
            last = (log.read().strip().splitlines() or [""])[-1]
            rows.append(Row(part=part, what="the part", found=f"{how}: {last}"[:500], aim="", fine=False, numbers={}))
        log.close()
    for row in rows:
        verdict = {True: "ok", False: "MISSED", None: ""}[row["fine"]]
        print(f"({part}) {row['what']:32} {row['found'][:WIDE]:{WIDE}} {row['aim']:12} {verdict}")
    print(f"({part}) {time.monotonic() - start:.0f} s", flush=True)
    return rows


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """End a part, and the workers that it started."""
    with suppress(ProcessLookupError):  # all of them have ended
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def alone(asked: argparse.Namespace) -> int:
    """As the process of one part: each row is written down as soon as it is known."""
    torch.set_num_threads(1 if asked.device == "cpu" else 4)
    with tempfile.TemporaryDirectory() as folder, asked.into.open("a") as into:
        for row in PARTS[asked.part](Bench(Path(folder), asked.device, small=asked.small)):
            into.write(json.dumps({**row, "part": asked.part}) + "\n")
            into.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
