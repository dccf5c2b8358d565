"""Texts of a dataset as rows of token numbers: with the labels to predict, or in blocks to continue."""

from collections.abc import Mapping
from typing import Any

import datasets
import numpy as np
import torch
from torch import Tensor

from lrtune.errors import TaskError
from lrtune.wire.tasks import HuggingfaceParams
from worker.tasks.files import reading
from worker.tasks.supervised import halves

Rows = dict[str, Tensor]
MOST_CLASSES = 1000
SHARE = 0.1  # for validation, of a dataset that has one split
SHOWN = 40  # column names that an error lists


def parts(found: Mapping[str, datasets.Dataset], params: HuggingfaceParams) -> tuple[Any, Any]:
    """The split to train on and the one to measure on; None where that is a share of the first."""
    chosen = params.validation
    if chosen is None:
        chosen = next((name for name in ("validation", "test") if name in found and len(found) > 1), None)
    if isinstance(chosen, str) and chosen not in found:
        raise TaskError(f"validation: found {chosen!r}; {params.dataset!r} has the splits {', '.join(found)}")
    rest = [name for name in found if name != chosen]
    train = "train" if "train" in rest else rest[0] if len(rest) == 1 else None
    if train is None:
        raise TaskError(f"dataset: {params.dataset!r} has the splits {', '.join(found)}; needed is one called train")
    return found[train], found[chosen] if isinstance(chosen, str) else None


def _column(rows: datasets.Dataset, name: str, field: str) -> list[Any]:
    if name not in rows.column_names:
        names = ", ".join(rows.column_names[:SHOWN]) + (", ..." if len(rows.column_names) > SHOWN else "")
        raise TaskError(f"{field}: found {name!r}; the dataset has the columns {names}")
    # As the file has them: to decode a picture or a sound is to open the file that it names.
    values: list[Any] = rows.select_columns(name).with_format("arrow")[:][name].to_pylist()
    if field != "label" and (odd := next((one for one in values if not isinstance(one, str | None)), None)) is not None:
        raise TaskError(f"{field}: the column {name!r} holds {odd!r:.60}; accepted is a column of text")
    return values


def labelled(both: tuple[Any, Any], tokenizer: Any, config: Any, params: HuggingfaceParams) -> tuple[Rows, Rows, int]:
    """Texts with the number of their label, for training and for validation, and how many labels there are."""
    _padding(tokenizer, config, params)
    table = [row for part in both if part is not None for row in _complete(part, params)]
    first = len(_complete(both[0], params))
    if first == 0 or (both[1] is not None and first == len(table)):
        raise TaskError(f"dataset: {params.dataset!r} has no rows with text and label in one of its splits")
    labels, count = _numbered([row[-1] for row in table], params)
    if both[1] is None:
        share = params.validation if isinstance(params.validation, float) else SHARE
        train, validation = halves(labels, share, stratify=True)
    else:
        train, validation = np.arange(first), np.arange(first, len(table))
    rows = _tokens(
        tokenizer, config, params, [list(column) for column in zip(*(row[:-1] for row in table), strict=True)]
    )
    rows["labels"] = torch.tensor(labels)
    return {n: t[train] for n, t in rows.items()}, {n: t[validation] for n, t in rows.items()}, count


def _complete(part: datasets.Dataset, params: HuggingfaceParams) -> list[tuple[Any, ...]]:
    """Text, second text if there is one, and label, of the rows that have them all."""
    pair = [] if params.text_pair is None else [_column(part, params.text_pair, "text_pair")]
    labels = _column(part, params.label, "label")
    if isinstance(part.features[params.label], datasets.ClassLabel):
        labels = [None if one == -1 else one for one in labels]  # how unlabelled rows are marked
    rows = zip(_column(part, params.text, "text"), *pair, labels, strict=True)
    return [row for row in rows if None not in row and row[-1] == row[-1]]  # NaN is no label


def _numbered(labels: list[Any], params: HuggingfaceParams) -> tuple[Any, int]:
    odd = next((one for one in labels if isinstance(one, list | dict)), None)
    if odd is not None:
        raise TaskError(f"label: the column {params.label!r} holds {odd!r:.60}; accepted is one label a row")
    classes = sorted(set(labels), key=lambda one: (str(type(one)), one))
    if not 2 <= len(classes) <= MOST_CLASSES:
        raise TaskError(f"label: {params.label!r} has {len(classes)} classes; 2 to {MOST_CLASSES} can be learned")
    place = {label: number for number, label in enumerate(classes)}
    return np.array([place[label] for label in labels]), len(classes)


def _padding(tokenizer: Any, config: Any, params: HuggingfaceParams) -> None:
    """Texts of one batch are made equally long with a token that the model knows to look away from."""
    if tokenizer.pad_token_id is None:
        if tokenizer.eos_token is None:
            raise TaskError(f"model: the tokenizer of {params.model!r} has neither a padding nor an end token")
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = tokenizer.truncation_side = "right"
    config.pad_token_id = tokenizer.pad_token_id


def _tokens(tokenizer: Any, config: Any, params: HuggingfaceParams, texts: list[list[str]]) -> Rows:
    with reading(params.dataset, "text for this tokenizer"):
        made = tokenizer(
            *texts, truncation=True, max_length=_most(tokenizer, config, params), padding="longest", return_tensors="pt"
        )
    rows = dict(made)
    _known(rows["input_ids"], config, params)
    return rows


def blocks(both: tuple[Any, Any], tokenizer: Any, config: Any, params: HuggingfaceParams) -> tuple[Rows, Rows, int]:
    """All texts in a row, cut into blocks: for training, and the last of them or another split for validation."""
    length = _most(tokenizer, config, params)
    end = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    found = []
    for part in both:
        texts = [] if part is None else [one for one in _column(part, params.text, "text") if one]
        codes = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
        row = torch.tensor([code for one in codes for code in (*one, *end)], dtype=torch.long)
        found.append(row[: len(row) // length * length].view(-1, length))
    train, validation = found
    if both[1] is None:
        share = params.validation if isinstance(params.validation, float) else SHARE
        cut = len(train) - max(1, round(share * len(train)))
        train, validation = train[: max(cut, 0)], train[max(cut, 0) :]
    if not (len(train) and len(validation)):
        raise TaskError(
            f"dataset: {params.dataset!r} has too little text; needed is a block of {length} tokens to train on "
            "and one for validation"
        )
    _known(torch.cat([train, validation]), config, params)
    return {"input_ids": train}, {"input_ids": validation}, 0


def _most(tokenizer: Any, config: Any, params: HuggingfaceParams) -> int:
    """The longest text that was asked for and that the model can read."""
    places = getattr(config, "max_position_embeddings", None) or params.max_length
    return int(min(params.max_length, tokenizer.model_max_length, places))


def _known(codes: Tensor, config: Any, params: HuggingfaceParams) -> None:
    size = getattr(config, "vocab_size", None)
    if size is not None and int(codes.max()) >= size:
        raise TaskError(
            f"model: the tokenizer of {params.model!r} gives the token {int(codes.max())}; the model knows {size}"
        )
