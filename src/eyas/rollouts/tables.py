"""The tables of a run or dataset folder: a row a step in `trajectories/*.parquet`, pictures in `images/*.parquet`."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

SCHEMA_VERSION = "4"

TRAJECTORY_SCHEMA = pa.schema(
    [
        ("name", pa.string()),  # the file's name
        ("stage", pa.string()),
        ("iteration", pa.int64()),
        ("env_id", pa.string()),
        # the trajectory, repeated in each of its rows
        ("trajectory", pa.int64()),  # index in this file
        ("task", pa.int64()),
        ("episode", pa.int64()),
        ("seed", pa.int64()),
        ("group", pa.int64()),
        ("success", pa.bool_()),
        ("progress", pa.float64()),
        ("first_step", pa.int64()),
        ("return_before", pa.float64()),
        ("fallbacks_before", pa.int64()),
        ("final_value", pa.float64()),
        ("stop_reason", pa.string()),
        ("total_return", pa.float64()),
        # the step; all null in the one row of a trajectory without steps
        ("step", pa.int64()),  # index in the episode: starts at first_step
        ("prompt_prefix", pa.int64()),  # number of leading messages shared with the previous row's prompt
        ("prompt", pa.string()),  # JSON: the messages after them
        ("image_hashes", pa.list_(pa.string())),  # the pictures in `prompt`, in order
        ("completion_text", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
        ("sampling_logprobs", pa.list_(pa.float32())),
        ("finish_reason", pa.string()),
        ("policy_version", pa.int64()),
        ("scores", pa.string()),  # JSON: every action's tokens and log-prob, where the action was chosen by scoring
        ("parse_kind", pa.string()),  # "parsed" or "failure"
        ("parse_reason", pa.string()),
        ("parse_detail", pa.string()),
        ("action_name", pa.string()),
        ("parsed_action", pa.string()),  # JSON: what the policy wrote
        ("thought", pa.string()),
        ("facts_written", pa.string()),  # JSON
        ("action_start", pa.int64()),
        ("action", pa.string()),  # JSON: what was executed
        ("executed_name", pa.string()),
        ("executed_by", pa.string()),
        ("reward_terms", pa.string()),  # JSON
        ("environment_scale", pa.float64()),
        ("reward_total", pa.float64()),
        ("facts_truth", pa.string()),  # JSON
        ("legal_actions", pa.string()),  # JSON; null where they cannot be listed
        ("expert_move", pa.string()),  # JSON: action, facts, thought; null where no expert was asked
        ("value", pa.float64()),
        ("advantage", pa.float64()),
        # of each token (an action that was scored is one element), in training only
        ("learner_logprobs", pa.list_(pa.float32())),  # at the learner's first pass of the iteration
        ("updated_logprobs", pa.list_(pa.float32())),  # at its last one
        ("token_advantages", pa.list_(pa.float32())),  # where credit goes to tokens, and not to whole steps
        # only in a trajectory's last row
        ("final_prompt_prefix", pa.int64()),
        ("final_prompt", pa.string()),  # JSON; null where there are no final messages
    ],
    metadata={"eyas_schema": SCHEMA_VERSION},
)
IMAGE_SCHEMA = pa.schema(
    [("hash", pa.string()), ("png", pa.binary()), ("height", pa.int32()), ("width", pa.int32())],
    metadata={"eyas_schema": SCHEMA_VERSION},
)
IMAGES_PER_ROW_GROUP = 64  # what a reader loads to get one picture
_ARRAY_COLUMNS = {"token_ids": np.int32} | dict.fromkeys(
    ("sampling_logprobs", "learner_logprobs", "updated_logprobs", "token_advantages"), np.float32
)
_NAMES = b"eyas_action_names"  # in the metadata of a file

Row = dict[str, Any]


def rows_to_table(rows: Sequence[Row]) -> pa.Table:
    """A trajectories table; what the rows hold beyond its columns becomes columns of its own."""
    columns = {f.name: pa.array([row.get(f.name) for row in rows], type=f.type) for f in TRAJECTORY_SCHEMA}
    extra = [name for name in rows[0] if name not in columns] if rows else []
    schema = TRAJECTORY_SCHEMA
    for name in extra:
        columns[name] = pa.array([row[name] for row in rows])
        schema = schema.append(pa.field(name, columns[name].type))
    return pa.table(columns, schema=schema)


def with_action_names(table: pa.Table, names: Mapping[int, Mapping[str, str]]) -> pa.Table:
    """A trajectories table that says, by task, how actions are called; an action stands there as its JSON."""
    return table.replace_schema_metadata({**(table.schema.metadata or {}), _NAMES: json.dumps(names)})


def recorded_action_names(schema: pa.Schema) -> dict[int, dict[str, str]]:
    """What `with_action_names` wrote; nothing where a file does not say it."""
    recorded = json.loads((schema.metadata or {}).get(_NAMES, b"{}"))
    return {int(task): dict(names) for task, names in recorded.items()}


def version_of(schema: pa.Schema) -> str:
    """The schema version of a table of ours; "none" where it does not say."""
    return (schema.metadata or {}).get(b"eyas_schema", b"none").decode(errors="replace")


def table_to_rows(table: pa.Table) -> list[Row]:
    """The rows of a trajectories table, token ids and log-probs as arrays. Raises `KeyError` where a column is missing."""
    columns = {}
    for column in TRAJECTORY_SCHEMA.names:
        if column in _ARRAY_COLUMNS:
            columns[column] = _to_arrays(table.column(column), _ARRAY_COLUMNS[column])
        else:
            columns[column] = table.column(column).to_pylist()
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _to_arrays(column: pa.ChunkedArray, dtype: type) -> list[np.ndarray | None]:
    return [
        np.array(scalar.values.to_numpy(zero_copy_only=False), dtype=dtype) if scalar.is_valid else None
        for scalar in column
    ]
