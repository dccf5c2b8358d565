"""`lrtune serve`, `lrtune worker`, `lrtune migrate`: the programs of the service, as commands of the installed package.

Their packages have names that others use as well (`app`, `worker`, `migrations`). So a wheel keeps them in a folder of
its own, which stands on the path of these programs and of no other; in the source tree they lie beside `lrtune`.
"""

import os
import runpy
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from lrtune.errors import Invalid

INSTALLED = Path(__file__).resolve().parents[1] / "_service"
ROOT = INSTALLED if INSTALLED.is_dir() else INSTALLED.parents[1]

app = typer.Typer()


def require(extra: str, *modules: str) -> None:
    """Raise Invalid, in words, where what a program needs is not installed."""
    if missing := [module for module in modules if find_spec(module) is None]:
        words = " and ".join(missing)
        raise Invalid(f"found no package {words}, which this command needs; pip install 'lrtune[{extra}]' brings it")


def _on_path() -> None:
    """Make the service's packages importable, before others of the same names; tasks in this folder are found too."""
    sys.path[:0] = [str(ROOT), str(Path.cwd())]


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all of this machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any free one.")] = 8000,
    forwarded_allow_ips: Annotated[
        str | None,
        typer.Option(envvar="FORWARDED_ALLOW_IPS", help="Addresses of proxies that are believed, with commas between."),
    ] = None,
) -> None:
    """Run the server, until SIGTERM or Ctrl-C. Its settings are environment variables (LRTUNE_...)."""
    require("app", "uvicorn", "fastapi", "sqlalchemy")
    _on_path()
    import_module("uvicorn").run(
        "app.main:create_app", factory=True, host=host, port=port, forwarded_allow_ips=forwarded_allow_ips
    )


@app.command()
def worker() -> None:
    """Run a worker on one device, until SIGTERM or Ctrl-C. Its settings are environment variables (LRTUNE_...)."""
    require("worker", "torch", "threadpoolctl", "sqlalchemy")
    _on_path()
    sys.argv = ["lrtune worker"]
    runpy.run_module("worker", run_name="__main__")


@app.command()
def fleet(
    address: Annotated[
        str, typer.Option(help="The Ray cluster: auto for the one of this host, or host:port.")
    ] = "auto",
    least: Annotated[int, typer.Option("--min", min=0, help="Workers to keep where there is nothing to do.")] = 0,
    most: Annotated[int, typer.Option("--max", min=1, help="Workers at most.")] = 16,
    gpus: Annotated[float, typer.Option("--gpus-per-worker", min=0, help="GPUs that each reserves.")] = 1,
    cpus: Annotated[float, typer.Option("--cpus-per-worker", min=0, help="CPUs that each reserves.")] = 1,
    seconds: Annotated[float, typer.Option("--every", min=0.1, help="Seconds between two looks at the queue.")] = 5,
) -> None:
    """Keep workers on a Ray cluster, as many as would find something to train, until SIGTERM or Ctrl-C."""
    require("worker,ray", "ray", "torch", "sqlalchemy")
    _on_path()
    import_module("worker.fleet").main(address, least, most, gpus, cpus, seconds)


@app.command()
def migrate() -> None:
    """Bring the schema of LRTUNE_DATABASE_URL up to date; on SQLite the server does so at its start."""
    require("app", "alembic", "sqlalchemy")
    _on_path()
    url = os.environ.get("LRTUNE_DATABASE_URL", "sqlite:///.lrtune/lrtune.db")
    import_module("migrations").upgrade(url)
