"""`lrtune datasets`: data of one's own, uploaded for jobs to train on."""

from pathlib import Path
from typing import Annotated

import typer

from lrtune.cli import out
from lrtune.cli.lazy import client as clients
from lrtune.cli.lazy import terminal
from lrtune.cli.options import AsJson

commands = typer.Typer(no_args_is_help=True, help="Data of your own: upload, list, show, remove.")
DatasetName = Annotated[str, typer.Argument(metavar="DATASET", help="Its name or its id.")]


@commands.command("add")
def add_dataset(
    file: Annotated[Path, typer.Argument(help="A .csv, .parquet, .npz or .txt file, or a .zip of pictures.")],
    name: Annotated[str | None, typer.Option(help="What jobs call it; the file's name when left out.")] = None,
    as_json: AsJson = False,
) -> None:
    """Upload a file for jobs to train on."""
    with clients.Client() as client:
        found = client.add_dataset(file, name=name)
    out.show(found, as_json, lambda: terminal.dataset(found))


@commands.command("list")
def list_datasets(as_json: AsJson = False) -> None:
    """What was uploaded, newest first."""
    with clients.Client() as client:
        found = tuple(client.datasets())
    out.show(found, as_json, lambda: terminal.datasets(found))


@commands.command("show")
def show_dataset(dataset: DatasetName, as_json: AsJson = False) -> None:
    """What is in a dataset: columns, classes, first rows."""
    with clients.Client() as client:
        found = client.dataset(dataset)
    out.show(found, as_json, lambda: terminal.dataset(found))


@commands.command("remove")
def remove_dataset(dataset: DatasetName) -> None:
    """Forget a dataset and its bytes, once no job needs it."""
    with clients.Client() as client:
        client.remove_dataset(dataset)
    out.say(f"{dataset} is removed")
