"""Per-token records of a run: what was sampled, and every log-probability it was given.

`<run>/records/tokens-000010.parquet` has one row per response token of step 10, in the order that
the trainer hands them over; `sequences-000010.parquet` one row per response. Log-probs are stored
raw: no clamp, no clip; NaN means "not computed" and becomes null. Weights are stored on request only,
they follow from the rest. `likeliest-000010.parquet`, on request as well, has the sampler's likeliest tokens of
every position. Not here: metrics (`alpkit.runs.steps`).

    RecordWriter(RunFolder(run).records).write(step, tokens, sequences)
    read(run, columns=["logp_rollout", "logp_train"], steps=[10])
"""

from alpkit.runs.records.place import recorded_steps, rewind
from alpkit.runs.records.reader import (
    Readable,
    count_rows,
    dataset,
    read,
    read_likeliest,
    read_sequences,
    scan,
    scan_step,
)
from alpkit.runs.records.schema import SEQUENCE_SCHEMA, TOKEN_SCHEMA
from alpkit.runs.records.writer import BackgroundWriter, RecordWriter

__all__ = [
    "SEQUENCE_SCHEMA",
    "TOKEN_SCHEMA",
    "BackgroundWriter",
    "Readable",
    "RecordWriter",
    "count_rows",
    "dataset",
    "read",
    "read_likeliest",
    "read_sequences",
    "recorded_steps",
    "rewind",
    "scan",
    "scan_step",
]
