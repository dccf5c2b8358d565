"""A job against its text, before it is stored: by the rule of the worker, which would fail later.

The tasks are `text`, and `huggingface` where it learns a language: what its tokenizer makes of it is not known here,
so only what none could make enough of is refused.
"""

import json
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from lrtune.errors import Rejection, UnusableFile
from lrtune.space import shown
from lrtune.uploads import texts
from lrtune.uploads.places import below
from lrtune.wire.tasks import HuggingfaceParams, TextParams

LARGEST = 16 * 1024 * 1024  # bytes of a file that is read while a job waits for the answer
WIDEST = 4  # bytes of one character in UTF-8
PLAIN = (".txt", ".csv", ".tsv", ".json", ".jsonl")  # a token of theirs is a byte or more, an end of a text as well
SHORTEST = 512  # tokens that pretrained models read at least, unless their own folder says fewer
READS = {"config.json": ("max_position_embeddings", "n_positions"), "tokenizer_config.json": ("model_max_length",)}


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
        found = _read(path, path.stat().st_mtime_ns)
    except UnusableFile as error:
        return [{"pointer": "/dataset", "detail": str(error)}]
    except OSError:
        return []  # the worker may be let in where the server is not
    if isinstance(found, str):
        return [{"pointer": "/dataset", "detail": found}]
    why = texts.too_short(*found, params)
    return [{"pointer": "/dataset", "detail": f"it {why}"}] if why else []


@lru_cache(maxsize=32)
def _read(path: Path, changed: int) -> tuple[int, int] | str:  # noqa: ARG001 - a file that has changed is read anew
    """How many characters a text has and how many different ones, read once for many jobs; why it cannot be read."""
    try:
        return texts.measured(path)
    except UnicodeDecodeError as error:
        return f"it cannot be read as UTF-8 text: {error.reason} at byte {error.start}; save it as UTF-8"


def too_little(params: HuggingfaceParams, data_dir: Path) -> list[Rejection]:
    """What is wrong with the text of a language model, where its file lies here."""
    try:
        path = below(data_dir, params.dataset)
        if params.kind != "causal-lm" or path.suffix not in PLAIN or not path.is_file():
            return []
        most = path.stat().st_size + 1  # a text ends with a token more
    except (UnusableFile, OSError):
        return []  # the worker says it
    length = min(params.max_length, _context(data_dir, params.model))
    if most >= 2 * length:
        return []
    needed = f"a block of {length} tokens to train on and one for validation; a smaller max_length makes them shorter"
    detail = f"it has {most - 1} bytes, so at most {most} tokens; needed are {needed}"
    return [{"pointer": "/dataset", "detail": detail}]


def _context(data_dir: Path, model: str) -> int:
    """How many tokens a model reads at once, where its folder lies here and says so."""
    found = list[int]()
    for file, names in READS.items():
        with suppress(UnusableFile, OSError, ValueError, ArithmeticError, AttributeError, RecursionError):
            said = json.loads(below(data_dir, f"{model}/{file}").read_bytes())
            found += [int(said[name]) for name in names if isinstance(said.get(name), int | float)]
    return min(found, default=SHORTEST)
