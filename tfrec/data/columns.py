"""Side columns of users and videos: what kind each is, and its values as arrays.

A column is *categorical* (one of a vocabulary), *numeric*, a *list* (several values of a vocabulary, separated by | or
written as a JSON list) or *text* (read by the text encoder). A kind is declared in the configuration or inferred.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tfrec.config import ColumnKind, DataConfig
from tfrec.data.entities import Entities
from tfrec.data.parse import Parsed, parse_numbers
from tfrec.data.rejects import RejectLog
from tfrec.data.schema import CategoricalColumn, FeatureColumns, NumericColumn

MAX_LIST_LENGTH = 8

_MISSING = pa.array(["", "nan", "NaN", "NA", "N/A", "n/a", "null", "NULL", "None", "none"])
_MANY_VALUES = 20  # more whole numbers than this are a quantity, fewer are codes
_LIST_SHARE = 0.25  # many rows of a list column hold a single value, without a separator
_TEXT_LENGTH = 30
_TEXT_DISTINCT_SHARE = 0.5
_TEXT_MIN_ROWS = 50  # in a smaller table a share of distinct values says little


@dataclass(frozen=True)
class ColumnNotes:
    """What was made of the columns of a table: kind by name, and why the others are left out."""

    kinds: Mapping[str, str]
    ignored: Mapping[str, str]


@dataclass
class SideColumns:
    """The side columns of one table.

    Args:
        categorical: columns by name.
        lists: columns by name.
        numeric: columns by name.
        texts: text columns, string arrays `[rows]` with nulls.
        kinds: kind by name, and where it comes from.
        ignored: reason by name.
    """

    categorical: dict[str, CategoricalColumn] = field(default_factory=dict)
    lists: dict[str, CategoricalColumn] = field(default_factory=dict)
    numeric: dict[str, NumericColumn] = field(default_factory=dict)
    texts: dict[str, pa.Array] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)

    def drop_empty_vocabularies(self) -> None:
        """Leaves out columns without a value that is frequent enough."""
        for columns in (self.categorical, self.lists):
            for name in [name for name, column in columns.items() if not column.vocabulary]:
                del columns[name], self.kinds[name]
                self.ignored[name] = "no value as frequent as min_category_count"

    @property
    def features(self) -> FeatureColumns:
        """The columns that a tower can read."""
        return FeatureColumns(self.categorical, self.lists, self.numeric)


def read_side_columns(
    table: Entities, names: list[str], config: DataConfig, rejects: RejectLog, *, fixed: Mapping[str, ColumnKind]
) -> SideColumns:
    """Reads the columns `names` of a table.

    Args:
        table: users or videos.
        names: its columns without those that have a meaning of their own.
        config: declared kinds and rarity limit.
        rejects: learns of values that are no numbers in a numeric column.
        fixed: kinds that the data contract gives.
    """
    columns = SideColumns()
    for name in names:
        values = without_missing_words(table.columns[name])
        distinct = len(pc.unique(values.drop_null()))
        if distinct == 0 or (distinct == 1 and values.null_count == 0):
            columns.ignored[name] = "constant" if distinct else "no values"
            continue
        kind, source = _kind(name, values, config, fixed)
        columns.kinds[name] = f"{kind} ({source})"
        if kind == "text":
            columns.texts[name] = values
        elif kind == "numeric":
            columns.numeric[name] = _numeric(table, name, values, rejects)
        elif kind == "list":
            columns.lists[name] = encode_lists(values, config.min_category_count)
        else:
            columns.categorical[name] = encode_categories(values, config.min_category_count)
    columns.drop_empty_vocabularies()
    return columns


def _kind(name: str, values: pa.Array, config: DataConfig, fixed: Mapping[str, ColumnKind]) -> tuple[ColumnKind, str]:
    if name in config.kinds:
        return config.kinds[name], "declared"
    if name in fixed:
        return fixed[name], "by contract"
    return infer_kind(values), "inferred"


def without_missing_words(values: pa.Array) -> pa.Array:
    """Words such as "nan" and "None" become null."""
    return pc.if_else(pc.is_in(pc.utf8_trim_whitespace(values), value_set=_MISSING), None, values)


def infer_kind(values: pa.Array) -> ColumnKind:
    """The kind of a column, by its values (null where missing, at least one present)."""
    present = values.drop_null()
    distinct = len(pc.unique(present))
    numbers = parse_numbers(present)
    if not numbers.bad.any():
        whole = (numbers.values == np.round(numbers.values)).all()
        return "categorical" if whole and distinct <= _MANY_VALUES else "numeric"
    if _share(pc.match_substring_regex(present, r"\||^\s*\[.*\]\s*$")) >= _LIST_SHARE:
        return "list"
    is_unique = len(present) >= _TEXT_MIN_ROWS and distinct > _TEXT_DISTINCT_SHARE * len(present)
    return "text" if is_unique or pc.mean(pc.utf8_length(present)).as_py() > _TEXT_LENGTH else "categorical"


def _share(mask: pa.Array) -> float:
    return float(pc.mean(mask.cast(pa.float64())).as_py())


def encode_categories(values: pa.Array, min_count: int) -> CategoricalColumn:
    """Codes by falling count, then by value; 0 for missing and for values rarer than `min_count`."""
    encoded = values.dictionary_encode()
    words = encoded.dictionary.to_pylist()
    indices = encoded.indices.fill_null(len(words)).to_numpy(zero_copy_only=False)
    counts = np.bincount(indices, minlength=len(words) + 1)
    kept = sorted(np.flatnonzero(counts[:-1] >= min_count), key=lambda word: (-counts[word], words[word]))
    code_of = np.zeros(len(words) + 1, np.int32)
    code_of[kept] = 1 + np.arange(len(kept))
    return CategoricalColumn(code_of[indices], tuple(words[word] for word in kept))


def encode_lists(values: pa.Array, min_count: int) -> CategoricalColumn:
    """Codes `[rows, length]`: the first `MAX_LIST_LENGTH` values of each row that are in the vocabulary, then 0."""
    lists = pa.array([split_list(value) for value in values.to_pylist()], pa.list_(pa.string()))
    flat = encode_categories(lists.flatten(), min_count)
    row = pc.list_parent_indices(lists).to_numpy()[flat.codes > 0]
    code = flat.codes[flat.codes > 0]
    position = np.arange(len(row)) - np.searchsorted(row, row)
    keep = position < MAX_LIST_LENGTH
    codes = np.zeros((len(values), position[keep].max(initial=0) + 1), np.int32)
    codes[row[keep], position[keep]] = code[keep]
    return CategoricalColumn(codes, flat.vocabulary)


def split_list(value: str | None) -> list[str]:
    """The values of a list cell: a JSON list, the same in Python's spelling, or words separated by |."""
    words = (value or "").split("|")
    if value and value.lstrip().startswith("["):
        for parse in (json.loads, ast.literal_eval):
            try:
                words = [str(word) for word in parse(value) if word is not None]
                break
            except (ValueError, SyntaxError):
                continue
    return [word for word in map(str.strip, words) if word]


def encode_numbers(numbers: Parsed) -> NumericColumn:
    """Standardises the values that are present."""
    present = np.isfinite(numbers.values)
    known = numbers.values[present]
    mean = float(known.mean()) if len(known) else 0.0
    deviation = float(known.std()) if len(known) else 0.0
    deviation = deviation or 1.0
    values = np.where(present, (numbers.values - mean) / deviation, 0)
    return NumericColumn(values.astype(np.float32), present, mean, deviation)


def _numeric(table: Entities, name: str, values: pa.Array, rejects: RejectLog) -> NumericColumn:
    numbers = parse_numbers(values)
    table.reject_values(name, numbers.bad, rejects)
    return encode_numbers(numbers)
