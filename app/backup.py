"""`lrtune backup FILE` and `lrtune restore FILE`: the whole service as one archive, whichever database it is of.

A zip file: `manifest.json`, `tables/<name>.jsonl`, and the uploaded files below `data/`. The key and the training
states are not in it. An archive comes back into an empty database only; one of an older release is brought up to date.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

import migrations
from app.settings import Settings, settings
from lrtune import __version__
from lrtune.errors import Conflict, Invalid, LrtuneError
from lrtune.store import Database, archive, schema
from lrtune.uploads import mirror
from lrtune.uploads.places import below
from lrtune.wire.datasets import FOLDER

FORMAT, MANIFEST = 1, "manifest.json"


def main() -> int:
    """One of the two; the exit status."""
    parser = argparse.ArgumentParser("python -m app.backup", description=__doc__)
    parser.add_argument("what", choices=["backup", "restore"])
    parser.add_argument("file", type=Path)
    asked = parser.parse_args()
    verb = backup if asked.what == "backup" else restore
    try:
        found = verb(settings(), asked.file)
    except (LrtuneError, OSError, DBAPIError) as error:
        print(f"lrtune: {str(getattr(error, 'orig', error)).strip()}", file=sys.stderr)
        return 2
    done = f"wrote {asked.file}:" if asked.what == "backup" else f"{asked.file} is restored:"
    tables = found["tables"]
    counts = (tables.get("jobs", 0), "job"), (sum(tables.values()), "row"), (found["files"], "uploaded file")
    print(done, ", ".join(f"{count} {noun}{'s' * (count != 1)}" for count, noun in counts))
    return 0


def backup(made_of: Settings, file: Path) -> dict[str, Any]:
    """Write an archive of the database as it is at one moment, over none; what is in it. Raises Conflict."""
    if file.exists():
        raise Conflict(f"{file} is there already and stays as it is: name another file, or remove that one first")
    _same_schema(made_of.database_url)
    number, name = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.absolute().parent)  # readable by its owner only
    try:
        with os.fdopen(number, "wb") as raw, zipfile.ZipFile(raw, "w", zipfile.ZIP_DEFLATED) as packed:
            found = _write(made_of, packed)
        Path(name).replace(file)
    finally:
        Path(name).unlink(missing_ok=True)
    return found


def restore(into: Settings, file: Path) -> dict[str, Any]:
    """Bring an archive back, or nothing of it. Raises Conflict where something is there, Invalid for another file."""
    try:
        with zipfile.ZipFile(file) as packed:
            found = _manifest(packed)
            _empty(into.database_url, str(found["schema"]))
            _files(packed, into.data_dir)
            _rows(packed, into.database_url, found)
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise Invalid(f"{file}: found no whole archive of `lrtune backup` ({error})") from None
    migrations.upgrade(into.database_url)
    return found


def _same_schema(url: str) -> None:
    database = Database(url)
    try:
        with database.read() as tx:
            wrong = schema.differs(schema.found(tx))
    finally:
        database.dispose()
    if wrong:
        raise Conflict(wrong)


def _write(made_of: Settings, packed: zipfile.ZipFile) -> dict[str, Any]:
    counts = dict[str, int]()
    with archive.connected(made_of.database_url) as connection, connection.begin():
        for table in archive.tables(connection):
            with packed.open(f"tables/{table.name}.jsonl", "w", force_zip64=True) as out:
                counts[table.name] = sum(
                    1 for line in archive.rows(connection, table) if out.write(f"{line}\n".encode())
                )
    # After the rows: a file is there before its row is, and files are never changed.
    mirror.fetch(made_of.data_dir, [FOLDER], ours=True)
    uploads = made_of.data_dir / FOLDER
    files = sorted(path for path in uploads.rglob("*") if path.is_file() and path.suffix != ".part")
    for path in files:
        packed.write(path, f"data/{path.relative_to(made_of.data_dir).as_posix()}")
    found = {
        "format": FORMAT,
        "lrtune": __version__,
        "schema": schema.REVISION,
        "made_at": datetime.now(UTC).isoformat(),
    }
    found |= {"tables": counts, "files": len(files)}
    packed.writestr(MANIFEST, json.dumps(found, indent=1))
    return found


def _manifest(packed: zipfile.ZipFile) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(packed.read(MANIFEST))
    if found["format"] != FORMAT:
        raise Invalid(f"found an archive of format {found['format']}; accepted is {FORMAT}")
    if (broken := packed.testzip()) is not None:
        raise Invalid(f"{broken} is damaged in this archive; take another copy of it")
    if str(found["schema"]) > schema.REVISION:
        raise Invalid(
            f"found an archive of schema {found['schema']}, of a newer release than this one, which has "
            f"{schema.REVISION}: restore it with that release"
        )
    return found


def _empty(url: str, revision: str) -> None:
    """Let there be a database with the archive's schema and nothing in it. Raises Conflict."""
    Database(url).dispose()  # makes SQLite's folder
    with archive.connected(url) as connection:
        if not archive.is_empty(connection):
            raise Conflict("the database is not empty; an archive is restored into one that nobody has used yet")
        there = archive.tables(connection)
    if there:
        migrations.downgrade(url, "base")
    migrations.upgrade(url, revision)


def _files(packed: zipfile.ZipFile, data_dir: Path) -> None:
    for name in packed.namelist():
        if name.startswith(f"data/{FOLDER}/"):
            target = below(data_dir, name.removeprefix("data/"))
            target.parent.mkdir(parents=True, exist_ok=True)
            with packed.open(name) as content, target.open("wb") as out:
                shutil.copyfileobj(content, out)
            mirror.keep(data_dir, name.removeprefix("data/"))


def _rows(packed: zipfile.ZipFile, url: str, found: dict[str, Any]) -> None:
    with archive.connected(url) as connection, connection.begin():
        for table in archive.tables(connection):
            _table(packed, connection, table, found)


def _table(packed: zipfile.ZipFile, connection: Connection, table: Any, found: dict[str, Any]) -> None:
    with packed.open(f"tables/{table.name}.jsonl") as lines:
        count = archive.load(connection, table, lines)
    if count != found["tables"][table.name]:
        raise Invalid(f"{table.name}: found {count} rows; the archive says {found['tables'][table.name]}")
    archive.count_on(connection, table)


if __name__ == "__main__":
    sys.exit(main())
