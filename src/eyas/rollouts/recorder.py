"""Writes trajectories and their pictures to Parquet, off the hot path; `datasets.py` is the exact inverse.

One row a step, `trajectories/NAME.parquet`. A prompt is stored as what it adds to the previous step's prompt, and a
completion that comes back in a later prompt as the index of its step, so a file grows linearly with the number of steps
in conversation mode too. Pictures lie in `images/*.parquet`, each once per folder, written before the rows that name
them: a kill at any moment leaves no row without its picture.
"""

import errno
import json
import logging
import os
import queue
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from eyas.errors import DatasetError
from eyas.rollouts.images import image_to_png
from eyas.types import Completion, ImagePart, ImageStore, Message, ParsedAction, Step, Trajectory

logger = logging.getLogger(__name__)

SCHEMA_VERSION = "1"

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
        ("legal_actions", pa.list_(pa.int64())),
        ("value", pa.float64()),
        ("advantage", pa.float64()),
        # only in a trajectory's last row
        ("final_prompt_prefix", pa.int64()),
        ("final_prompt", pa.string()),  # JSON; null where there are no final messages
    ],
    metadata={"eyas_schema": SCHEMA_VERSION},
)
# The fields of a trajectory that are columns as they are; `datasets.py` reads them back.
EPISODE_FIELDS = (
    "task",
    "episode",
    "seed",
    "group",
    "success",
    "progress",
    "first_step",
    "return_before",
    "fallbacks_before",
    "final_value",
)
IMAGE_SCHEMA = pa.schema(
    [("hash", pa.string()), ("png", pa.binary()), ("height", pa.int32()), ("width", pa.int32())],
    metadata={"eyas_schema": SCHEMA_VERSION},
)
IMAGES_PER_SHARD = 4096
IMAGES_PER_ROW_GROUP = 64  # what a reader loads to get one picture
_GIVEN_COLUMNS = {"stage", "iteration", "env_id"}

Row = dict[str, Any]


# ----------------------------------------------------------------------------------------------- atomic files


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, of any library, says that the disk or the quota is full."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left on device" in str(error)


def fsync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomically(path: Path, write: Callable[[Any], None]) -> None:
    """Calls `write` with an open binary file and puts it at `path` in one move: a kill leaves the old file or the new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_directory(path.parent)


# ----------------------------------------------------------------------------------------------- encoding


def encode_action(action: Any) -> Any:
    """JSON form of an action of any space. A number, text, None or list stays as it is; the rest is tagged."""
    if isinstance(action, np.generic | np.ndarray) and action.dtype.kind in "biufU":  # before float: float64 is one
        kind = "array" if isinstance(action, np.ndarray) else "scalar"
        return {kind: action.ravel().tolist(), "dtype": action.dtype.str, "shape": list(action.shape)}
    if action is None or isinstance(action, int | float | str):
        return action
    if type(action) is list:
        return [encode_action(a) for a in action]
    if type(action) is tuple:
        return {"tuple": [encode_action(a) for a in action]}
    if isinstance(action, Mapping):
        return {"dict": [[encode_action(k), encode_action(v)] for k, v in action.items()]}
    raise DatasetError(
        f"an action of type {type(action).__name__} cannot be recorded: use numbers, text or NumPy arrays"
    )


def _encode_completion(completion: Completion, earlier: Sequence[Completion]) -> Any:
    for index in range(len(earlier) - 1, -1, -1):
        if earlier[index] is completion:
            return index
    ids, logprobs = completion.token_ids, completion.sampling_logprobs
    return {
        "text": completion.text,
        "token_ids": None if ids is None else ids.tolist(),
        "sampling_logprobs": None if logprobs is None else logprobs.tolist(),
        "finish_reason": completion.finish_reason.value,
        "policy_version": completion.policy_version,
    }


def _encode_message(message: Message, earlier: Sequence[Completion]) -> dict[str, Any]:
    parts = [{"image": p.image_hash} if isinstance(p, ImagePart) else {"text": p.text} for p in message.parts]
    encoded = {"role": message.role, "parts": parts}
    if message.completion is not None:
        encoded["completion"] = _encode_completion(message.completion, earlier)
    return encoded


class _PromptEncoder:
    """Encodes a trajectory's prompts in order, each as its difference from the one before."""

    def __init__(self) -> None:
        self._messages: tuple[Message, ...] = ()
        self._completions: list[Completion] = []

    def encode(self, messages: tuple[Message, ...]) -> tuple[int, str]:
        """Number of leading messages shared with the last prompt, and the JSON of the rest (at least one message)."""
        prefix = 0
        limit = min(len(messages) - 1, len(self._messages))
        while prefix < limit and self._is_same(messages[prefix], self._messages[prefix]):
            prefix += 1
        self._messages = messages
        return prefix, json.dumps([_encode_message(m, self._completions) for m in messages[prefix:]])

    def add_completion(self, completion: Completion) -> None:
        self._completions.append(completion)

    def _is_same(self, message: Message, other: Message) -> bool:
        # Message.__eq__ would compare NumPy arrays by truth value.
        if message is other:
            return True
        if message.role != other.role or message.parts != other.parts:
            return False
        return message.completion is other.completion or (
            _encode_message(message, self._completions) == _encode_message(other, self._completions)
        )


def _image_hashes(messages: Sequence[Message]) -> list[str]:
    return [p.image_hash for m in messages for p in m.parts if isinstance(p, ImagePart)]


def _encode_parse(step: Step) -> Row:
    parse = step.parse
    if isinstance(parse, ParsedAction):
        return {
            "parse_kind": "parsed",
            "action_name": parse.name,
            "parsed_action": json.dumps(encode_action(parse.action)),
            "thought": parse.thought,
            "facts_written": json.dumps(dict(parse.facts)),
            "action_start": parse.action_start,
        }
    return {
        "parse_kind": "failure",
        "parse_reason": parse.reason.value,
        "parse_detail": parse.detail,
        "action_start": parse.action_start,
    }


def _encode_step(step: Step, encoder: _PromptEncoder) -> Row:
    prefix, prompt = encoder.encode(step.messages)
    encoder.add_completion(step.completion)
    completion = step.completion
    return {
        "prompt_prefix": prefix,
        "prompt": prompt,
        "image_hashes": _image_hashes(step.messages[prefix:]),
        "completion_text": completion.text,
        "token_ids": completion.token_ids,
        "sampling_logprobs": completion.sampling_logprobs,
        "finish_reason": completion.finish_reason.value,
        "policy_version": completion.policy_version,
        **_encode_parse(step),
        "action": json.dumps(encode_action(step.action)),
        "executed_name": step.action_name,
        "executed_by": step.executed_by.value,
        "reward_terms": json.dumps({name: float(term) for name, term in step.reward.terms.items()}),
        "environment_scale": step.reward.environment_scale,
        "reward_total": step.reward.total,
        "facts_truth": json.dumps(dict(step.facts)),
        "legal_actions": None if step.legal_actions is None else [int(a) for a in step.legal_actions],
        "value": step.value,
        "advantage": step.advantage,
    }


def encode_trajectory(trajectory: Trajectory) -> list[Row]:
    """The rows of a trajectory: one a step, or a single one without a step index where there are no steps."""
    encoder = _PromptEncoder()
    rows = [_encode_step(step, encoder) for step in trajectory.steps] or [{}]
    episode = {field: getattr(trajectory, field) for field in EPISODE_FIELDS}
    episode |= {"stop_reason": trajectory.stop_reason.value, "total_return": trajectory.total_return}
    for index, row in enumerate(rows):
        row |= episode | {"step": trajectory.first_step + index if trajectory.steps else None}
    if trajectory.final_messages is not None:
        rows[-1]["final_prompt_prefix"], rows[-1]["final_prompt"] = encoder.encode(trajectory.final_messages)
    return rows


def _rows_to_table(rows: Sequence[Row]) -> pa.Table:
    columns = {f.name: pa.array([row.get(f.name) for row in rows], type=f.type) for f in TRAJECTORY_SCHEMA}
    extra = [name for name in rows[0] if name not in columns] if rows else []
    schema = TRAJECTORY_SCHEMA
    for name in extra:
        columns[name] = pa.array([row[name] for row in rows])
        schema = schema.append(pa.field(name, columns[name].type))
    return pa.table(columns, schema=schema)


# ----------------------------------------------------------------------------------------------- the recorder


class TrajectoryRecorder:
    """Records into a run or dataset folder; encoding to PNG and writing happen on a background thread.

    What a trajectory holds when `record` is called is what is written. An error on the thread is raised, as
    `DatasetError` with the path, by the next `record`, `flush` or `close`; a recorder that failed writes nothing more,
    so that no row can refer to a picture that was lost. Use it as a context manager, or `close` it.
    """

    def __init__(self, folder: str | Path, image_store: ImageStore) -> None:
        self.folder = Path(folder)
        self._image_store = image_store
        self._known_hashes: set[str] = set()
        self._next_shard = 0
        self._error: DatasetError | None = None
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue(maxsize=4)
        self._open_folder()
        self._thread = threading.Thread(target=self._work, name="eyas-recorder", daemon=True)
        self._thread.start()

    def record(self, name: str, trajectories: Sequence[Trajectory], **columns: Any) -> None:
        """Writes `trajectories/NAME.parquet`, in place of one that is there.

        `columns` (stage, iteration, env_id, or any other name) go into each row; a list gives one value a trajectory.
        """
        self._raise_error()
        if not self._thread.is_alive():
            raise DatasetError(f"the recorder of {self.folder} is closed: open a new one")
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.=-]*", name):
            raise DatasetError(f"{name!r} cannot be a file name: use letters, digits, '_', '-' and '.'")
        if taken := columns.keys() & (set(TRAJECTORY_SCHEMA.names) - _GIVEN_COLUMNS):
            raise DatasetError(
                f"column {min(taken)!r} is filled from the trajectory: give the extra column another name"
            )
        rows = list(self._rows(name, trajectories, columns))
        images = self._new_images(trajectories)
        self._jobs.put(lambda: self._write(name, rows, images))

    def flush(self) -> None:
        """Waits until everything recorded is on the disk."""
        self._jobs.join()
        self._raise_error()

    def close(self) -> None:
        if self._thread.is_alive():
            self._jobs.put(None)
            self._thread.join()
        self._raise_error()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except DatasetError as own_error:
            if error is None:
                raise
            logger.warning("%s", own_error)  # the first error is the one to see

    def _open_folder(self) -> None:
        for part in ("trajectories", "images"):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
            for stale in (self.folder / part).glob(".*.tmp"):
                stale.unlink()
        for shard in sorted((self.folder / "images").glob("*.parquet")):
            self._known_hashes.update(read_shard_hashes(shard))
            if match := re.fullmatch(r"shard_(\d+)", shard.stem):
                self._next_shard = max(self._next_shard, int(match[1]) + 1)

    def _rows(self, name: str, trajectories: Sequence[Trajectory], columns: Mapping[str, Any]) -> Iterator[Row]:
        for index, trajectory in enumerate(trajectories):
            given = {k: v[index] if isinstance(v, list | tuple) else v for k, v in columns.items()}
            for row in encode_trajectory(trajectory):
                yield row | given | {"name": name, "trajectory": index}

    def _new_images(self, trajectories: Sequence[Trajectory]) -> dict[str, np.ndarray]:
        # Taken out of the store now: its owner may discard them as soon as `record` returns.
        images: dict[str, np.ndarray] = {}
        for trajectory in trajectories:
            prompts = [s.messages for s in trajectory.steps] + [trajectory.final_messages or ()]
            for image_hash in dict.fromkeys(h for messages in prompts for h in _image_hashes(messages)):
                if image_hash not in self._known_hashes and image_hash not in images:
                    images[image_hash] = self._image_store.get(image_hash)
        self._known_hashes.update(images)
        return images

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                if self._error is None:
                    job()
            except DatasetError as error:
                self._error = error
            finally:
                self._jobs.task_done()
        self._jobs.task_done()

    def _write(self, name: str, rows: list[Row], images: dict[str, np.ndarray]) -> None:
        hashes = list(images)
        for start in range(0, len(hashes), IMAGES_PER_SHARD):
            self._write_shard({h: images[h] for h in hashes[start : start + IMAGES_PER_SHARD]})
        path = self.folder / "trajectories" / f"{name}.parquet"
        _write_parquet(path, lambda: _rows_to_table(rows), compression="zstd")

    def _write_shard(self, images: dict[str, np.ndarray]) -> None:
        def to_table() -> pa.Table:
            rows = [
                {"hash": h, "png": image_to_png(image), "height": image.shape[0], "width": image.shape[1]}
                for h, image in images.items()
            ]
            return pa.Table.from_pylist(rows, schema=IMAGE_SCHEMA)

        path = self.folder / "images" / f"shard_{self._next_shard:06d}.parquet"
        options = {"compression": "none", "use_dictionary": False, "write_statistics": False}
        _write_parquet(path, to_table, row_group_size=IMAGES_PER_ROW_GROUP, **options)
        self._next_shard += 1

    def _raise_error(self) -> None:
        if self._error is not None:
            raise DatasetError(str(self._error)) from self._error


def read_shard_hashes(shard: Path) -> list[str]:
    """The hashes in an image shard, without reading its pictures."""
    try:
        return pq.read_table(shard, columns=["hash"]).column("hash").to_pylist()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DatasetError(
            f"{shard} cannot be read ({error}): restore it from a copy, or collect into a new folder"
        ) from error


def _write_parquet(path: Path, to_table: Callable[[], pa.Table], **options: Any) -> None:
    try:
        write_atomically(path, lambda file: pq.write_table(to_table(), file, **options))
    except Exception as error:
        if is_disk_full(error):
            raise DatasetError(f"the disk is full: {path} could not be written. Free some space, then go on") from error
        raise DatasetError(f"{path} could not be written ({type(error).__name__}: {error})") from error
