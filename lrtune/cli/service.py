"""The programs of the service as commands: `lrtune serve`, `lrtune worker`, `lrtune fleet` and `lrtune migrate`."""

import os
import runpy
import sys
from contextlib import ExitStack
from importlib import import_module
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from lrtune.cli import programs
from lrtune.errors import Invalid

app = typer.Typer()


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all of this machine's.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 for any free one.")] = 8000,
    forwarded_allow_ips: Annotated[
        str | None,
        typer.Option(help="Addresses of proxies that are believed, with commas between."),  # else FORWARDED_ALLOW_IPS
    ] = None,
    root_path: Annotated[
        str, typer.Option(help="The prefix that a proxy takes off before it passes a request on, such as /lrtune.")
    ] = "",
    processes: Annotated[
        int, typer.Option(min=1, max=64, help="Server processes that share the port; several need PostgreSQL.")
    ] = 1,
) -> None:
    """Run the server, until SIGTERM or Ctrl-C. Its settings are environment variables (LRTUNE_...)."""
    if processes > 1 and _database_url().startswith("sqlite"):
        rule = "accepted is 1 with SQLite, which has one writer at a time; PostgreSQL takes several"
        raise Invalid(f"--processes: found {processes}; {rule}")
    programs.require("app", "uvicorn", "fastapi", "sqlalchemy")
    programs.become()
    with ExitStack() as until_the_end:
        if processes > 1:
            import_module("app.settings").to_serve()  # what is wrong is said here, once: one that ends is started again
            folder = until_the_end.enter_context(TemporaryDirectory(prefix="lrtune-metrics-"))
            os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # where they add up what they count
        import_module("uvicorn").run(
            "app.main:create_app",
            factory=True,
            host=host,
            port=port,
            forwarded_allow_ips=forwarded_allow_ips,
            root_path=root_path,
            workers=processes,
        )


@app.command()
def worker() -> None:
    """Run a worker on one device, until SIGTERM or Ctrl-C. Its settings are environment variables (LRTUNE_...)."""
    programs.require("worker", "torch", "threadpoolctl", "sqlalchemy")
    programs.become()
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
    devices: Annotated[
        int,
        typer.Option(
            "--devices-per-worker",
            min=1,
            max=64,
            help="Devices of each, on any nodes, for trials over several (training.devices); "
            "GPUs and CPUs are reserved for every one of them.",
        ),
    ] = 1,
    seconds: Annotated[float, typer.Option("--every", min=0.1, help="Seconds between two looks at the queue.")] = 5,
) -> None:
    """Keep workers on a Ray cluster, as many as would find something to train, until SIGTERM or Ctrl-C."""
    programs.require("worker,ray", "ray", "torch", "sqlalchemy")
    programs.become()
    module = import_module("worker.fleet")
    module.main(address, module.Size(least, most, gpus, cpus, devices), seconds)


@app.command()
def migrate() -> None:
    """Bring the schema of LRTUNE_DATABASE_URL up to date; on SQLite the server does so at its start."""
    programs.require("app", "alembic", "sqlalchemy")
    programs.become()
    import_module("migrations").upgrade_by_hand(_database_url())


def _database_url() -> str:
    return os.environ.get("LRTUNE_DATABASE_URL", "sqlite:///.lrtune/lrtune.db")
