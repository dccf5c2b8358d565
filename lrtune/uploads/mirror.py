"""A data folder that lies behind a URL of fsspec's, such as `LRTUNE_DATA_DIR=s3://bucket/data`.

All else works with files of this host: in their place stands a folder below the user's cache, beside which a file says
of what it is the copy. What a job names is fetched into it, whole files, and again when its size or its mark there (the
ETag, or when it was changed) is another; what the server keeps is put there, and what it removes is removed there.
"""

import hashlib
import logging
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any

from lrtune.errors import Unavailable
from lrtune.wire.datasets import FOLDER

OF, MARKS = ".lrtune-copy-of", "marks"  # beside the folder: the URL that it is a copy of, and which files it has of it
log = logging.getLogger("lrtune")
OURS = (FOLDER, "archived")  # what the server itself keeps there
SHOWN = 10  # names that a message lists
MARK = ("ETag", "etag", "md5Hash", "content_md5", "LastModified", "last_modified", "mtime", "created")


def place(named: object) -> object:
    """The folder for what `LRTUNE_DATA_DIR` says: the same, or the copy of a URL. Raises ValueError."""
    if not isinstance(named, str) or "://" not in named:
        return named
    try:
        import fsspec

        fsspec.core.url_to_fs(named)
    except (ImportError, ValueError) as error:
        raise ValueError(f"accepted is a folder or a URL of fsspec's ({error})") from None
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    copy = cache / "lrtune" / hashlib.sha256(named.encode()).hexdigest()[:16]
    copy.mkdir(parents=True, exist_ok=True, mode=0o700)
    for folder in (copy / MARKS, copy / "data"):
        folder.mkdir(exist_ok=True)
    half = copy / f"half-{uuid.uuid4().hex}"
    half.write_text(named)
    half.replace(copy / OF)
    return copy / "data"


def said(folder: Path) -> str:
    """What `LRTUNE_DATA_DIR` says of a folder, from wherever it is read."""
    return _url(folder) or str(folder.absolute())


def fetch(folder: Path, names: Iterable[object], *, ours: bool = False) -> None:
    """Bring files and folders to this host as they are now; what is gone there goes here. Raises Unavailable.

    All that was uploaded at once is nothing for a job to name: only with `ours` it comes.
    """
    if (url := _url(folder)) is None:
        return
    wanted = [name for name in names if isinstance(name, str) and _inside(name)]
    for name in dict.fromkeys(name for name in wanted if ours or PurePosixPath(name).as_posix() not in OURS):
        with _reached(url) as (files, root):
            _fetch(files, f"{root}/{name}", folder / name, folder)


def fetch_all(folder: Path, params: object) -> None:
    """Bring all but uploads to this host, and those that parameters name: a task of one's own may read any of it."""
    if (url := _url(folder)) is None:
        return
    with _reached(url) as (files, root):
        top = [path.rstrip("/").rpartition("/")[2] for path in _names(files, root)]
    fetch(folder, [*(name for name in top if name not in OURS), *_texts(params)])


def keep(folder: Path, name: str) -> None:
    """Put a file of this host there, in one piece. Raises Unavailable."""
    if (url := _url(folder)) is not None:
        with _reached(url) as (files, root):
            path = f"{root}/{name}"
            files.makedirs(path.rpartition("/")[0], exist_ok=True)
            files.put_file(str(folder / name), path)
            _mark(folder / name, folder).write_text(_marked(files.info(path)))


def remove(folder: Path, name: str) -> None:
    """Remove a file here and there. Raises Unavailable."""
    if (url := _url(folder)) is not None:
        with _reached(url) as (files, root):
            if files.exists(f"{root}/{name}"):
                files.rm_file(f"{root}/{name}")
    (folder / name).unlink(missing_ok=True)


def names(folder: Path) -> list[str]:
    """What lies in the folder, or would, by name. Raises Unavailable."""
    if (url := _url(folder)) is None:
        return sorted(path.name for path in folder.iterdir())
    with _reached(url) as (files, root):
        return sorted(path.rstrip("/").rpartition("/")[2] for path in _names(files, root))


def listed(folder: Path) -> str:
    """The first names of what lies in the folder, for whoever looked for another; uploads have names of their own."""
    hidden = (FOLDER, ".")
    try:
        found = [one for one in names(folder) if not one.startswith(hidden)] if folder.is_dir() else []
    except (OSError, Unavailable):  # what is asked is what is wrong with another name
        return "files that cannot be listed just now"
    return few(found, len(found)) or "no files"


def few(found: Iterable[str], many: int) -> str:
    """The first of so many names, and how many more there are; one with what steers a terminal is quoted."""
    first = (one if one.isprintable() else repr(one) for one in islice(found, SHOWN))
    return ", ".join(first) + (f" and {many - SHOWN} more" if many > SHOWN else "")


def _url(folder: Path) -> str | None:
    try:
        return (folder.parent / OF).read_text()
    except (FileNotFoundError, NotADirectoryError):
        return None


@contextmanager
def _reached(url: str) -> Iterator[tuple[Any, str]]:
    """The file system of a URL and the path there; whatever its library raises is Unavailable, in words."""
    import fsspec

    try:
        files, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
        yield files, root.rstrip("/")
    except Exception as error:
        log.warning("LRTUNE_DATA_DIR: %s cannot be reached: %s", url, error)
        raise Unavailable(f"the data folder cannot be reached ({type(error).__name__}); try again soon") from error


def _fetch(files: Any, path: str, target: Path, folder: Path) -> None:
    """One file or folder, with all that is below it."""
    try:
        info = files.info(path)
    except FileNotFoundError:
        _forget(target, folder)
        return
    if info["type"] == "file":
        _copy(files, info, target, folder)
        return
    there = {one[len(path) :].lstrip("/"): info for one, info in files.find(path, detail=True).items()}
    for one in [*target.rglob("*")] if target.is_dir() else ():
        if one.relative_to(target).as_posix() not in there:
            _forget(one, folder)
    for name, one in there.items():
        if _inside(name):
            _copy(files, one, target / name, folder)


def _copy(files: Any, info: Mapping[str, Any], target: Path, folder: Path) -> None:
    """One file, unless it is here as it is there; whoever reads the one before goes on with that."""
    mark, now = _mark(target, folder), _marked(info)
    if target.is_file() and mark.is_file() and mark.read_text() == now and target.stat().st_size == info["size"]:
        return
    if target.is_dir():
        shutil.rmtree(target)  # it was a folder there, too
    if target.parent.is_file():
        _forget(target.parent, folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    half = folder.parent / MARKS / f"half-{uuid.uuid4().hex}"
    try:
        files.get_file(info["name"], str(half))
        half.replace(target)
    finally:
        half.unlink(missing_ok=True)
    mark.write_text(now)


def _mark(file: Path, folder: Path) -> Path:
    """The file that says which state of a file was fetched."""
    return folder.parent / MARKS / hashlib.sha256(file.relative_to(folder).as_posix().encode()).hexdigest()


def _marked(info: Mapping[str, Any]) -> str:
    return f"{info['size']} {next((info[name] for name in MARK if info.get(name)), '')}"


def _forget(target: Path, folder: Path) -> None:
    """Remove what was fetched and is gone there; what was not fetched is being received."""
    for one in [*target.rglob("*"), target]:
        if one.is_file() and (mark := _mark(one, folder)).exists():
            one.unlink(missing_ok=True)
            mark.unlink(missing_ok=True)


def _names(files: Any, root: str) -> list[str]:
    try:
        found: list[str] = files.ls(root, detail=False)
    except FileNotFoundError:
        return []
    return found


def _inside(name: str) -> bool:
    """Whether a name can be that of a file below a folder; others are refused where they are opened."""
    parts = PurePosixPath(name).parts
    odd = not parts or "\0" in name or len(name) > 1024 or parts[0] == "/"
    return not odd and ".." not in parts and "://" not in name


def _texts(value: object) -> Iterator[str]:
    """Every text in parameters."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list | tuple):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(one)
