"""A job of the task `text` against its text, before it is stored: by the rule of the worker, which would fail later."""

from pathlib import Path

from lrtune.errors import Rejection, UnusableFile
from lrtune.space import shown
from lrtune.uploads import texts
from lrtune.uploads.places import below
from lrtune.wire.tasks import TextParams

LARGEST = 16 * 1024 * 1024  # bytes of a file that is read while a job waits for the answer
WIDEST = 4  # bytes of one character in UTF-8


def wrong(params: TextParams, data_dir: Path) -> list[Rejection]:
    """What is wrong (pointers into the parameters), where the file lies here; one surely long enough is not read."""
    smaller = min(params.validation, 1 - params.validation)
    most = min(LARGEST, WIDEST * (params.context + 2) / smaller)
    try:
        path = below(data_dir, params.dataset)
        if path.is_dir():
            return [
                {"pointer": "/dataset", "detail": f"found the folder {shown(params.dataset)}; accepted is one file"}
            ]
        if not path.is_file() or path.stat().st_size > most:
            return []
        text = path.read_text(encoding="utf-8-sig")
    except UnusableFile as error:
        return [{"pointer": "/dataset", "detail": str(error)}]
    except UnicodeDecodeError as error:
        detail = f"it cannot be read as UTF-8 text: {error.reason} at byte {error.start}; save it as UTF-8"
        return [{"pointer": "/dataset", "detail": detail}]
    except OSError:
        return []  # the worker may be let in where the server is not
    why = texts.too_short(len(text), len(set(text)), params)
    return [{"pointer": "/dataset", "detail": f"it {why}"}] if why else []
