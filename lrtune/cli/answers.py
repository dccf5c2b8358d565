"""The commands that show a job's answer: `lrtune best`, `lrtune report` and `lrtune export`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lrtune.cli import out
from lrtune.cli.lazy import client as clients
from lrtune.cli.lazy import lazily, terminal
from lrtune.cli.options import AsJson, JobId

if TYPE_CHECKING:
    from lrtune.report import document, evidence
else:
    document, evidence = lazily("lrtune.report.document"), lazily("lrtune.report.evidence")

# As `lrtune.export.FORMATS` has them, which takes all of them to import; a test holds that.
FORMATS = ("pytorch", "keras", "optax", "transformers", "lightning", "deepspeed", "timm", "json", "csv")
commands = typer.Typer()
Steps = Annotated[int | None, typer.Option(min=1, help="Carry it over to a run of so many steps.")]


@commands.command()
def best(job: JobId, steps: Steps = None, as_json: AsJson = False) -> None:
    """The answer: the best configuration, its value with its interval, and the baseline beside it.

    With --steps: what the best peak rate and schedule would be over so many, and how that is known.
    """
    with clients.Client() as client:
        if steps is not None:
            at = client.best_at(job, steps)
            out.show(at, as_json, lambda: terminal.carried_over(at))
        else:
            found = client.best(job)
            out.show(found, as_json, lambda: terminal.answer(found, client.trial(job, found.trial)))
    if not as_json:
        carried = "; with --steps N both are of a run of N steps" if steps is None else ""
        asked = "" if steps is None else f" --steps {steps}"
        out.say(f"\n`lrtune export {job}{asked}` writes it as PyTorch code{carried}")


@commands.command()
def report(
    job: JobId,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="A .html, .md or .png file to write.")] = None,
    as_json: AsJson = False,
) -> None:
    """Why this answer: where good rates lie, what happens above and below, what it cost, how sure it is."""
    write = document.writer(output) if output else None
    with clients.Client() as client:
        if write is None or output is None:
            found = client.report(job)
            return out.show(found, as_json, lambda: terminal.report(found))
        out.write(output, write(evidence.gather(client, job)))
    return out.say(f"wrote {output}")


@commands.command()
def export(
    job: JobId,
    format: Annotated[str, typer.Option(help=f"One of {', '.join(FORMATS)}.")] = "pytorch",
    output: Annotated[Path | None, typer.Option(help="A file to write; without it, the screen.")] = None,
    steps: Steps = None,
) -> None:
    """The answer as code or as a file of rates."""
    with clients.Client() as client:
        text = client.export(job, format, steps=steps)
    if output is None:
        return out.say(text, end="")
    return out.write(output, text.encode())
