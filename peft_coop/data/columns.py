"""A column of a dataset in the place of another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset


def with_column(dataset: Dataset, name: str, values: Sequence[Any], feature: Any) -> Dataset:
    """A dataset with a column, which comes last, in the place of what it has under this name.

    `datasets` cannot add one to rows that were all taken out of a dataset to which one had been added before: of no
    rows a new dataset is made.

    Args:
        dataset: of N rows.
        name: of the column.
        values: `[N]`.
        feature: the column's type.
    """
    from datasets import Dataset, Features

    others = [column for column in dataset.column_names if column != name]
    if len(dataset):
        return dataset.select_columns(others).add_column(name, list(values), feature=feature)
    features = Features({**{column: dataset.features[column] for column in others}, name: feature})
    return Dataset.from_dict({column: [] for column in features}, features=features, split=dataset.split)
