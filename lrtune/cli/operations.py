"""The commands for whoever runs the service, where it runs: `check`, `doctor`, `backup` and `restore`."""

from pathlib import Path
from typing import Annotated

import typer

from lrtune.cli import programs

commands = typer.Typer()


@commands.command()
def check(
    task: Annotated[str, typer.Argument(help="The import path of a task of your own, such as my_tasks:Vision.")],
    params: Annotated[str, typer.Option(help="Its parameters, as a JSON object.")] = "{}",
    data_dir: Annotated[str, typer.Option(envvar="LRTUNE_DATA_DIR", help="The data folder.")] = ".lrtune/data",
) -> None:
    """Try a task of your own on the spot, and say what is wrong with it."""
    asked = (task, "--params", params, "--data-dir", data_dir)
    raise typer.Exit(programs.run("worker.check", *asked, needs="torch", extra="worker"))


@commands.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False) -> None:
    """Look at everything the service needs here, and say what is wrong and what to do. Exit code 1: something is."""
    raise typer.Exit(programs.run("app.doctor", *(["--json"] if as_json else []), needs="sqlalchemy", extra="app"))


@commands.command()
def backup(
    file: Annotated[Path, typer.Argument(help="The archive to write: a new .zip file.")],
) -> None:
    """Write the whole database and the uploaded files into one archive, while the service runs."""
    raise typer.Exit(programs.run("app.backup", "backup", str(file), needs="alembic", extra="app"))


@commands.command()
def restore(file: Annotated[Path, typer.Argument(help="An archive that `lrtune backup` wrote.")]) -> None:
    """Bring an archive back into an empty database, of either kind, before the service is started."""
    raise typer.Exit(programs.run("app.backup", "restore", str(file), needs="alembic", extra="app"))
