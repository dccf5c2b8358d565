"""`tabular`: a CSV or Parquet file, its columns made into numbers by scikit-learn's transformers, and an MLP.

Transformers are fitted on the training rows alone. Rows whose target is missing are left out.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import LabelEncoder, OneHotEncoder, StandardScaler
from torch import Tensor

from lrtune.errors import TaskError
from lrtune.uploads import fitness
from lrtune.uploads.summaries import key
from lrtune.wire.tasks import TabularParams
from worker.tasks.supervised import Classification, Regression, Supervised, mlp
from worker.tasks.tables import Data, prepared

CATEGORIES = 64  # a column; rarer ones share a place
FARTHEST = 1e18  # standard deviations from the mean: beyond it squares do not fit float32


def prepare(params: TabularParams, data_dir: Path) -> Supervised:
    """The task of these parameters. Raises TaskError for a file or a target that cannot be learned from."""
    data = prepared(params, data_dir)
    if fitness.is_classes(data.column, params.kind):
        return _classification(params, data)
    return _regression(params, data)


def _classification(params: TabularParams, data: Data) -> Supervised:
    encoder = LabelEncoder()
    labels = encoder.fit_transform(np.array(key(data.target)))
    if len(np.unique(labels[data.train])) < 2:
        raise TaskError(f"target: {data.column.name!r} is the same in every row to train on; two classes are needed")
    return _task(params, data, torch.tensor(labels), len(encoder.classes_), Classification())


def _regression(params: TabularParams, data: Data) -> Supervised:
    values = data.target / fitness.DAY if data.column.type == "date" else data.target
    mean, unit = values[data.train].mean(), values[data.train].std()
    if unit == 0:
        name = data.column.name
        raise TaskError(f"target: {name!r} is {mean:g} in every row to train on; nothing can be learned")
    scaled = (values - mean) / unit
    _fits(scaled[:, None], [data.column.name], "target")
    y = torch.tensor(scaled, dtype=torch.float32)
    return _task(params, data, y, 1, Regression(unit=float(unit)))


def _task(params: TabularParams, data: Data, y: Tensor, outputs: int, goal: Classification | Regression) -> Supervised:
    silent = [name for name, words in data.words.items() if all(word is None for word in words[data.train])]
    words = {name: column for name, column in data.words.items() if name not in silent}
    blocks = [_numbers(data)] if data.numbers else []
    blocks += [_words(words, data.train)] if words else []
    if not blocks:
        raise TaskError(f"dataset: {silent[0]!r} is empty in all rows to train on, and there is no other column")
    x = torch.tensor(np.concatenate(blocks, axis=1), dtype=torch.float32)
    train, validation = data.train, data.validation
    return Supervised(
        train=(x[train], y[train]),
        validation=(x[validation], y[validation]),
        batch_size=params.batch_size,
        build=partial(mlp, x.shape[1], params.hidden, outputs, dropout=params.dropout),
        goal=goal,
        notes=(*data.notes, *(f"the column {name!r} is empty in all rows to train on: left out" for name in silent)),
    )


def _numbers(data: Data) -> NDArray[np.float64]:
    """Standardised, the median where one is missing, and a flag for that."""
    table = np.column_stack(list(data.numbers.values()))
    median = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
    found: NDArray[np.float64] = make_pipeline(median, StandardScaler()).fit(table[data.train]).transform(table)
    _fits(found, list(data.numbers), "dataset")
    return found


def _words(words: dict[str, NDArray[Any]], train: NDArray[np.intp]) -> NDArray[np.float64]:
    """One place for each word; a missing one is a word of its own."""
    table = np.column_stack(list(words.values()))
    table[table == None] = "missing"  # noqa: E711  # element by element
    places = OneHotEncoder(handle_unknown="ignore", max_categories=CATEGORIES, sparse_output=False)
    found: NDArray[np.float64] = places.fit(table[train]).transform(table)
    return found


def _fits(scaled: NDArray[np.float64], names: list[str], field: str) -> None:
    """Raise TaskError for a column whose numbers do not fit float32."""
    for place, name in enumerate(names):
        farthest = np.abs(scaled[:, place]).max()
        if not farthest < FARTHEST:
            raise TaskError(
                f"{field}: the column {name!r} has a number {farthest:.1g} standard deviations from the mean of the "
                "rows to train on, which does not fit float32; name it in `missing`, or leave it out"
            )
