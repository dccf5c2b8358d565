"""What only admins do: `lrtune keys`, `lrtune people` and `lrtune audit`."""

from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lrtune.cli import out
from lrtune.cli.lazy import admin as admins
from lrtune.cli.lazy import client as clients
from lrtune.cli.lazy import terminal
from lrtune.cli.options import AsJson
from lrtune.errors import Invalid

if TYPE_CHECKING:
    from rich.console import RenderableType

    from lrtune.wire.people import Person

keys = typer.Typer(no_args_is_help=True, help="People's keys: create, list, revoke. For admins.")
people = typer.Typer(no_args_is_help=True, help="What each person may use: list, set, remove. For admins.")
others = typer.Typer()
Name = Annotated[str, typer.Argument(metavar="PERSON", help="What the person is called here.")]
USUAL = "read,submit,work"
AMOUNT = "A number, `none` for no bound, or `usual` for the settings' own."


@keys.command("create")
def create(
    person: Name,
    name: Annotated[str, typer.Option(help="What the key is for, to tell it from others.")] = "",
    scopes: Annotated[str, typer.Option(help="Any of read, submit, work, admin, which includes the others.")] = USUAL,
    as_json: AsJson = False,
) -> None:
    """Make a key, and print it, which happens this once."""
    asked = [one for one in scopes.replace(",", " ").split() if one]
    with clients.Client() as client:
        made = admins.Admin(client).create_key(person, name=name, scopes=asked)
    if as_json:
        return out.as_json(made)
    out.say(f"{made.id} of {made.person}, for {', '.join(made.scopes)}. This is shown once:", err=True)
    return out.say(made.key)


@keys.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """Everybody's keys, newest first: not the keys, but their beginnings."""
    with clients.Client() as client:
        found = tuple(admins.Admin(client).keys())
    revoked = ("revoked_at",) if any(one.revoked_at for one in found) else ()
    columns = ("id", "person", "name", "beginning", "scopes", "created_at", "used_at", *revoked)
    out.show(found, as_json, lambda: terminal.listed([one.model_dump(mode="json") for one in found], *columns))


@keys.command("revoke")
def revoke(
    key: Annotated[str, typer.Argument(metavar="KEY", help="The key's id, which `lrtune keys list` has.")],
) -> None:
    """Let a key be good for nothing any more."""
    with clients.Client() as client:
        admins.Admin(client).revoke_key(key)
    out.say(f"{key} is revoked")


@people.command("list")
def list_people(as_json: AsJson = False) -> None:
    """Everybody with a key, with what they may use."""
    with clients.Client() as client:
        found = tuple(admins.Admin(client).people())
    out.show(found, as_json, lambda: _people(found))


@people.command("set")
def set_person(
    person: Name,
    weight: Annotated[float | None, typer.Option(help="How much of the workers' time their jobs get.")] = None,
    queued_jobs: Annotated[str | None, typer.Option(help=f"Jobs that are queued or paused. {AMOUNT}")] = None,
    full_runs_a_day: Annotated[str | None, typer.Option(help=f"Full runs asked for within a day. {AMOUNT}")] = None,
    upload_bytes: Annotated[str | None, typer.Option(help=f"Bytes of datasets. {AMOUNT}")] = None,
    requests_a_minute: Annotated[str | None, typer.Option(help=f"Requests a minute. {AMOUNT}")] = None,
    as_json: AsJson = False,
) -> None:
    """Set what a person may use; what is not named stays as it is."""
    named = {
        "queued_jobs": queued_jobs,
        "full_runs_a_day": full_runs_a_day,
        "upload_bytes": upload_bytes,
        "requests_a_minute": requests_a_minute,
    }
    with clients.Client() as client:
        admin = admins.Admin(client)
        known = next((one for one in admin.people() if one.name == person), None)
        quotas = {name: known.quotas[name] for name in known.own} if known else {}
        for name, text in named.items():
            _set(quotas, name, text)
        before = known.weight if known else 1.0
        found = admin.set_person(person, weight=before if weight is None else weight, quotas=quotas)
    if known is None:
        out.say(f"{person} is new here: nobody of this name had a key, a weight or a quota before", err=True)
    out.show(found, as_json, lambda: _people([found]))


@people.command("remove")
def remove_person(person: Name) -> None:
    """Revoke all of a person's keys, and forget them; their jobs and data stay."""
    with clients.Client() as client:
        admins.Admin(client).remove_person(person)
    out.say(f"{person} is removed, and every key of theirs revoked; their jobs and data stay")


def _set(quotas: dict[str, Any], name: str, text: str | None) -> None:
    """Put what an option says into the quotas. Raises Invalid."""
    if text is None:
        return
    quotas.pop(name, None)
    if text == "usual":
        return
    try:
        quotas[name] = None if text == "none" else float(text) if "." in text else int(text)
    except ValueError:
        option = name.replace("_", "-")
        raise Invalid(f"--{option}: found {text!r}; accepted is a number, none, or usual") from None


def _people(found: "list[Person] | tuple[Person, ...]") -> "RenderableType":
    rows = [{"person": one.name, "weight": f"{one.weight:g}"} | _held(one) for one in found]
    return terminal.listed(rows, "person", "weight", *(found[0].quotas if found else ()))


def _held(person: "Person") -> dict[str, str]:
    return {name: "none" if most is None else f"{most:,}" for name, most in person.quotas.items()}


@others.command("audit")
def audit(
    actor: Annotated[str | None, typer.Option(help="Only what this person did.")] = None,
    subject: Annotated[str | None, typer.Option(help="Only what was done to this job, dataset, key or person.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Who changed what, newest first. For admins."""
    with clients.Client() as client:
        found = tuple(islice(admins.Admin(client).audit(actor=actor, subject=subject), limit))
    rows = [one.model_dump(mode="json") for one in found]
    said = [row | {"details": " ".join(f"{key}={value}" for key, value in row["details"].items())} for row in rows]
    out.show(found, as_json, lambda: terminal.listed(said, "at", "actor", "action", "subject", "details"))
