"""`tabular`: a CSV or Parquet file, its columns made into numbers by scikit-learn's transformers, and an MLP.

Transformers are fitted on the training rows alone. Rows whose target is missing are left out.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import LabelEncoder, OneHotEncoder, StandardScaler
from torch import Tensor

from lrtune.errors import TaskError
from lrtune.wire.tasks import TabularParams
from worker.tasks.files import locate
from worker.tasks.supervised import Classification, Regression, Supervised, halves, mlp
from worker.tasks.tables import finite, numeric, read_table, split_target

FEW = 20  # a target of whole numbers with at most so many different values is taken for classes
MOST_CLASSES = 1000
LEAST_ROWS = 10
CATEGORIES = 64  # a column; rarer ones share a place


def prepare(params: TabularParams, data_dir: Path) -> Supervised:
    """The task of these parameters. Raises TaskError for a file or a target that cannot be learned from."""
    path = locate(data_dir, params.dataset)
    table = read_table(path, params.dataset, header=params.header, target=params.target)
    features, target = split_target(table, params.target)
    if len(target) < LEAST_ROWS:
        raise TaskError(f"dataset: {params.dataset!r} has {len(target)} rows with a target; {LEAST_ROWS} are needed")
    if _is_classes(target, params.kind):
        return _classification(params, features, target)
    return _regression(params, features, target)


def _is_classes(target: "pd.Series[Any]", kind: str) -> bool:
    if kind != "auto":
        return kind == "classification"
    if not pd.api.types.is_numeric_dtype(target) or pd.api.types.is_bool_dtype(target):
        return True
    return bool(target.nunique() <= FEW and (target % 1 == 0).all())


def _classification(params: TabularParams, features: pd.DataFrame, target: "pd.Series[Any]") -> Supervised:
    encoder = LabelEncoder()
    labels = encoder.fit_transform(target.astype(str))
    classes = len(encoder.classes_)
    if classes < 2:
        raise TaskError(f"target: {target.name!r} is '{encoder.classes_[0]}' in every row; two classes are needed")
    if classes > MOST_CLASSES:
        raise TaskError(f"target: {target.name!r} has {classes} classes, at most {MOST_CLASSES} can be learned")
    train, validation = halves(labels, params.validation, stratify=True)
    y = torch.tensor(labels)
    return _task(params, features, (train, validation), y, classes, Classification())


def _regression(params: TabularParams, features: pd.DataFrame, target: "pd.Series[Any]") -> Supervised:
    values = pd.to_numeric(target, errors="coerce").to_numpy(dtype=float)
    if not np.isfinite(values).all():
        bad = target[~np.isfinite(values)].iloc[0]
        raise TaskError(f"target: {target.name!r} has '{bad}', which is not a number; regression needs finite numbers")
    train, validation = halves(values, params.validation, stratify=False)
    mean, unit = values[train].mean(), values[train].std()
    if unit == 0:
        raise TaskError(f"target: {target.name!r} is {mean:g} in every row to train on; nothing can be learned")
    y = torch.tensor((values - mean) / unit, dtype=torch.float32)
    return _task(params, features, (train, validation), y, 1, Regression(unit=float(unit)))


def _task(
    params: TabularParams,
    features: pd.DataFrame,
    rows: tuple[NDArray[np.intp], NDArray[np.intp]],
    y: Tensor,
    outputs: int,
    goal: Classification | Regression,
) -> Supervised:
    train, validation = rows
    columns = finite(features)
    transformer = _transformer(columns).fit(columns.iloc[train])
    x = torch.tensor(transformer.transform(columns), dtype=torch.float32)
    return Supervised(
        train=(x[train], y[train]),
        validation=(x[validation], y[validation]),
        batch_size=params.batch_size,
        build=partial(mlp, x.shape[1], params.hidden, outputs, dropout=params.dropout),
        goal=goal,
    )


def _transformer(columns: pd.DataFrame) -> ColumnTransformer:
    """Numbers: standardised, the median where missing and a flag for it. Words: one place each, missing is a word."""
    numbers = numeric(columns)
    words = [name for name in columns.columns if name not in numbers]
    median = SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True)
    missing = SimpleImputer(strategy="constant", fill_value="missing")
    places = OneHotEncoder(handle_unknown="ignore", max_categories=CATEGORIES, sparse_output=False)
    return ColumnTransformer(
        [
            ("numbers", make_pipeline(median, StandardScaler()), numbers),
            ("words", make_pipeline(missing, places), words),
        ],
        sparse_threshold=0.0,
    )
