"""Columns of the records: of a response token, and of a whole response."""

from collections.abc import Iterable, Mapping
from typing import Final, Literal

import pyarrow as pa

from alpkit.errors import TrackingError, did_you_mean

Kind = Literal["tokens", "sequences", "likeliest"]
_VERSION: Final = {b"alpkit.records": b"1"}


def _schema(columns: Mapping[str, pa.DataType], required: Iterable[str]) -> pa.Schema:
    must = set(required)
    fields = [pa.field(name, kind, nullable=name not in must) for name, kind in columns.items()]
    return pa.schema(fields, metadata=_VERSION)


_TOKENS: Final = {
    "step": pa.int32(),
    "update": pa.int16(),
    "sample": pa.int32(),
    "prompt": pa.int32(),
    "position": pa.int32(),
    "turn": pa.int16(),
    "token": pa.int32(),
    "logp_rollout": pa.float32(),
    "logp_old": pa.float32(),
    "logp_train": pa.float32(),
    "logp_perturbed": pa.float32(),
    "entropy": pa.float32(),
    "keep": pa.bool_(),
    "advantage": pa.float32(),
    "reward": pa.float32(),
    "policy_version": pa.int32(),
    "weight": pa.float32(),  # null unless records.weight: true
}
# Log-probs that a step did not compute, and what an imported dump does not say, are null.
_OPTIONAL: Final = ("keep", "policy_version")
TOKEN_SCHEMA: Final = _schema(
    _TOKENS,
    (n for n, kind in _TOKENS.items() if kind != pa.float32() and n not in _OPTIONAL),
)
SEQUENCE_SCHEMA: Final = _schema(
    {
        "step": pa.int32(),
        "sample": pa.int32(),
        "prompt": pa.int32(),
        "prompt_ids": pa.list_(pa.int32()),
        "response_ids": pa.list_(pa.int32()),
        "response_mask": pa.list_(pa.int8()),  # null: every response token is the model's own
        "reward": pa.float32(),
        "advantage": pa.float32(),
        "finish": pa.string(),
    },
    ("step", "sample", "prompt", "prompt_ids", "response_ids", "finish"),
)
LIKELIEST_SCHEMA: Final = _schema(
    {
        "step": pa.int32(),
        "sample": pa.int32(),
        "position": pa.int32(),
        "ids": pa.list_(pa.int32()),
        "logp_rollout": pa.list_(pa.float32()),
    },
    ("step", "sample", "position", "ids", "logp_rollout"),
)
SCHEMAS: Final[Mapping[Kind, pa.Schema]] = {
    "tokens": TOKEN_SCHEMA,
    "sequences": SEQUENCE_SCHEMA,
    "likeliest": LIKELIEST_SCHEMA,
}


def check_columns(names: Iterable[str], schema: pa.Schema, where: str) -> None:
    """Refuse a name that is no column of `schema`."""
    for name in names:
        if name not in schema.names:
            raise TrackingError(
                f"{name!r} is not a record column",
                where=where,
                fix=did_you_mean(name, schema.names, "columns"),
            )
