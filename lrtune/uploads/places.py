"""Where a file lies that a job names: below the data folder, in the end, or nowhere. The one place that decides it.

Server and workers ask here before they open anything whose name came from a job, or stands in a file that one named.
"""

from pathlib import Path

from lrtune.errors import UnusableFile


def below(folder: Path, name: str | Path, *, called: str = "LRTUNE_DATA_DIR") -> Path:
    """Where a name below a folder leads once every link is followed. Raises UnusableFile, in words.

    It need not be there; what is there is a file or a folder, never a pipe or a device that reading would wait for.
    """
    root = folder.resolve()
    try:
        path = (root / name).resolve()
        odd = path.exists() and not (path.is_file() or path.is_dir())
    except RuntimeError:  # whose words have the whole path
        raise UnusableFile(f"{str(name)!r} is no path: it is a link in a loop of links") from None
    except (OSError, ValueError) as error:  # a name too long, a null byte
        raise UnusableFile(f"{str(name)!r} is no path: {getattr(error, 'strerror', None) or error}") from None
    if not path.is_relative_to(root):
        raise UnusableFile(f"{str(name)!r} leads out of {called}; accepted is a path that stays below it")
    if odd:
        raise UnusableFile(f"{str(name)!r} is neither a file nor a folder")
    return path
