"""The recorder and the reader are exact inverses, each picture is on the disk once, and errors say where."""

import dataclasses
import enum
import errno
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eyas.errors import DatasetError
from eyas.rollouts import recorder as recorder_module
from eyas.rollouts.datasets import DatasetImageStore, dataset_info, load_trajectories, write_dataset_info
from eyas.rollouts.encoding import decode_action, encode_action
from eyas.rollouts.images import MemoryImageStore, image_to_png
from eyas.rollouts.recorder import TrajectoryRecorder
from eyas.rollouts.tables import TRAJECTORY_SCHEMA
from eyas.types import (
    ActionScores,
    Completion,
    ExecutedBy,
    ExpertMove,
    FailureReason,
    FinishReason,
    ImagePart,
    Message,
    ParsedAction,
    ParseFailure,
    RewardBreakdown,
    Step,
    StopReason,
    TextPart,
    Trajectory,
)


def assert_same(a: Any, b: Any, where: str = "") -> None:
    """Equality of all fields and types; NumPy arrays by dtype and value."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        assert list(a) == list(b), where
        for key in a:
            assert_same(a[key], b[key], f"{where}[{key!r}]")
        return
    assert type(a) is type(b), f"{where}: {type(a)} is not {type(b)}"
    if dataclasses.is_dataclass(a):
        for field in dataclasses.fields(a):
            assert_same(getattr(a, field.name), getattr(b, field.name), f"{where}.{field.name}")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), where
        for index, (x, y) in enumerate(zip(a, b)):
            assert_same(x, y, f"{where}[{index}]")
    elif isinstance(a, np.ndarray):
        assert a.dtype == b.dtype, where
        np.testing.assert_array_equal(a, b)
    elif isinstance(a, float) and np.isnan(a):
        assert np.isnan(b), where
    elif isinstance(a, enum.Enum):
        assert a is b, where
    else:
        assert a == b, where


def _frame(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (12, 10, 3), dtype=np.uint8)


def _completion(rng: np.random.Generator, step: int) -> Completion:
    ids = rng.integers(0, 50_000, 6).astype(np.int32)
    logprobs = np.log(rng.random(6)).astype(np.float32)
    words = (rng.integers(0, 50_000, 2).astype(np.int32), ids[4:])
    scores = ActionScores(4, words, np.log(np.array([0.25, 0.75], np.float32)), 1, step % 2 == 0)
    return Completion(f'{{"action": "go {step}"}} – ü\n', ids, logprobs, FinishReason.END_TOKEN, 3, scores)


def _user(store: MemoryImageStore, seed: int) -> Message:
    return Message("user", (TextPart("What now?"), ImagePart(store.put(_frame(seed)))))


def _conversation(store: MemoryImageStore, num_steps: int = 4, seed: int = 0) -> Trajectory:
    """An episode whose prompt grows: each has all earlier frames and completions."""
    rng = np.random.default_rng(seed)
    messages: tuple[Message, ...] = (Message("system", (TextPart("You play."),)), _user(store, 100 * seed))
    steps = []
    for index in range(num_steps):
        completion = _completion(rng, index)
        parse = ParsedAction(np.int64(index), "go", "I think", {"place": "3"}, 5)
        reward = RewardBreakdown({"environment": 0.1 * index, "parse": -1 / 3}, 0.5)
        step = Step(
            messages, completion, parse, np.int64(index), ExecutedBy.POLICY, reward, {"place": "4"}, (0, 2), "right"
        )
        step.expert_move = ExpertMove(np.int64(1), {"place": "4"}, "Left.", is_lost=True) if index else None
        step.value, step.advantage = (0.1 + index, float("nan")) if index else (None, None)
        if index:
            step.learner_logprobs, step.updated_logprobs, step.token_advantages = rng.normal(size=(3, 2)).astype("f4")
        steps.append(step)
        reply = Message("assistant", (TextPart(completion.text),), completion)
        messages = (*messages, reply, _user(store, 100 * seed + index + 1))
    identity = {"task": 1, "episode": 7, "seed": 2**40 + seed, "group": 2}
    before = {"first_step": 5, "return_before": 0.7, "fallbacks_before": 3}
    end = {"final_messages": messages, "final_value": 0.3, "success": False, "progress": 0.25}
    return Trajectory(**identity, **before, **end, steps=steps, stop_reason=StopReason.CUT)


def _single_prompts(store: MemoryImageStore) -> Trajectory:
    """Prompts that share nothing, steps of an expert and of a failed parse, no final messages."""
    failure = ParseFailure(FailureReason.CUT_OFF, "no end in sight", 9)
    steps = [
        Step((_user(store, 40),), Completion("up"), failure, None, ExecutedBy.FALLBACK, RewardBreakdown({})),
        Step(
            (_user(store, 40),), Completion("up"), failure, 1, ExecutedBy.EXPERT, RewardBreakdown({"environment": 1.0})
        ),
        Step((_user(store, 41),), Completion(""), failure, True, ExecutedBy.HUMAN, RewardBreakdown({}), {}, ()),
    ]
    return Trajectory(0, 0, 0, steps, StopReason.TERMINATED, success=True)


def _with_foreign_completion(store: MemoryImageStore) -> Trajectory:
    """Assistant messages with completions that are not those of an earlier step."""
    reply = Message("assistant", (TextPart("a"),), _completion(np.random.default_rng(1), 0))
    served = Message("assistant", (TextPart("b"),), Completion("b"))
    step = Step((reply, served, _user(store, 1)), Completion("x"), ParsedAction(0, "a", "", {}, 0), 0, ExecutedBy.RANDOM,
                RewardBreakdown({"environment": float("inf")}))  # fmt: skip
    copied = Message("assistant", reply.parts, dataclasses.replace(reply.completion))  # equal, not the same object
    other = dataclasses.replace(step, messages=(copied, served, served, _user(store, 2)))
    return Trajectory(0, 1, 1, [step, other], StopReason.PARSE_FAILURE, success=False)


def _empty() -> Trajectory:
    return Trajectory(0, 2, 9, [], StopReason.PARSE_FAILURE, group=1)


def _record(folder: Path, store: MemoryImageStore, *trajectories: Trajectory, name: str = "a", **columns: Any) -> None:
    with TrajectoryRecorder(folder, store) as recorder:
        recorder.record(name, trajectories, **columns)


# ----------------------------------------------------------------------------------------------- round trip


def test_round_trip_is_exact(tmp_path: Path) -> None:
    store = MemoryImageStore()
    recorded = [_conversation(store), _empty(), _single_prompts(store), _empty(), _with_foreign_completion(store)]
    _record(tmp_path, store, *recorded)
    loaded = load_trajectories(tmp_path)
    assert_same(recorded, loaded)
    assert loaded[0].steps[3].messages[2].completion is loaded[0].steps[0].completion


def _changed_fields(value: Any, found: dict[str, bool]) -> None:
    """Notes for each field with a default whether some object in `value` holds something else."""
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            now, default = getattr(value, field.name), field.default
            name = f"{type(value).__name__}.{field.name}"
            is_changed = default is dataclasses.MISSING or isinstance(now, np.ndarray) or now != default
            found[name] = found.get(name, False) or is_changed
            _changed_fields(now, found)
    elif isinstance(value, list | tuple):
        for item in value:
            _changed_fields(item, found)


def test_the_round_trip_covers_every_field() -> None:
    """A field that is added to the vocabulary is recorded too: here it would stand at its default."""
    found: dict[str, bool] = {}
    _changed_fields(_conversation(MemoryImageStore()), found)
    assert [name for name, is_changed in found.items() if not is_changed] == []


@pytest.mark.parametrize("part", ["role", "parts", "completion", "none"])
def test_a_prompt_shares_only_messages_that_are_equal(tmp_path: Path, part: str) -> None:
    store = MemoryImageStore()
    first = Message("assistant", (TextPart("a"),), _completion(np.random.default_rng(0), 0))
    changes: dict[str, Any] = {
        "role": {"role": "user"},
        "parts": {"parts": (TextPart("b"),)},
        "completion": {"completion": _completion(np.random.default_rng(1), 0)},
        "none": {"completion": None},
    }
    trajectory = _single_prompts(store)
    for step, message in zip(trajectory.steps, (first, dataclasses.replace(first, **changes[part]))):
        step.messages = (message, *step.messages)
    plain = dataclasses.replace(first, completion=None)
    trajectory.final_messages = (dataclasses.replace(plain, parts=(TextPart("c"),)), plain, plain)
    trajectory.steps[2].messages = (plain, plain)
    _record(tmp_path, store, trajectory)
    assert_same(load_trajectories(tmp_path), [trajectory])


def test_recording_what_was_loaded_gives_the_same_file(tmp_path: Path) -> None:
    store = MemoryImageStore()
    _record(tmp_path / "one", store, _conversation(store))
    again = load_trajectories(tmp_path / "one")
    _record(tmp_path / "two", DatasetImageStore(tmp_path / "one"), *again)
    files = [pq.read_table(tmp_path / f / "trajectories/a.parquet") for f in ("one", "two")]
    assert files[0].drop_columns(["advantage"]).equals(files[1].drop_columns(["advantage"]))  # NaN equals nothing


@pytest.mark.parametrize(
    "action",
    [
        None,
        3,
        True,
        0.1,
        "go",
        [1, [2.5, None]],
        (1, (2, 3)),
        {"a": 1, "dict": (np.float32(0.1),)},
        np.int64(2),
        np.float64(0.1),
        np.bool_(True),
        np.array(5),
        np.array([[1, 2], [3, 4]], np.uint8),
        np.zeros((0, 3), np.float32),
        np.array([np.nan, -np.inf]),
    ],
    ids=repr,
)
def test_actions_of_every_space(action: Any) -> None:
    assert_same(decode_action(json.loads(json.dumps(encode_action(action)))), action)


def test_an_action_that_cannot_be_recorded_is_refused_at_the_call(tmp_path: Path) -> None:
    store = MemoryImageStore()
    trajectory = _single_prompts(store)
    trajectory.steps[0].action = object()
    with TrajectoryRecorder(tmp_path, store) as recorder, pytest.raises(DatasetError, match="type object"):
        recorder.record("a", [trajectory])


def test_what_is_written_is_what_was_there_at_the_call(tmp_path: Path) -> None:
    store = MemoryImageStore()
    trajectory = _single_prompts(store)
    with TrajectoryRecorder(tmp_path, store) as recorder:
        recorder.record("a", [trajectory])
        trajectory.steps[0].value = 5.0
        store.clear()
    assert load_trajectories(tmp_path)[0].steps[0].value is None
    assert DatasetImageStore(tmp_path).get(trajectory.steps[0].messages[0].parts[1].image_hash).shape == (12, 10, 3)


def test_columns(tmp_path: Path) -> None:
    store = MemoryImageStore()
    _record(tmp_path, store, _conversation(store, 2), _single_prompts(store), stage="rl", iteration=4, env_id=["a", "b"],
            split="train")  # fmt: skip
    table = pq.read_table(tmp_path / "trajectories/a.parquet")
    assert table.column_names == [*TRAJECTORY_SCHEMA.names, "split"]
    assert table["env_id"].to_pylist() == ["a", "a", "b", "b", "b"]
    assert table["step"].to_pylist() == [5, 6, 0, 1, 2]
    assert table["trajectory"].to_pylist() == [0, 0, 1, 1, 1]
    assert table["iteration"].to_pylist() == [4] * 5
    assert table["total_return"].to_pylist() == pytest.approx([0.8, 0.8, 1.0, 1.0, 1.0])
    assert table["name"].to_pylist() == ["a"] * 5
    assert all(table["image_hashes"].to_pylist())  # each row names the frame of its step


@pytest.mark.parametrize(("name", "columns"), [("../a", {}), (".a", {}), ("a", {"seed": 1}), ("a", {"name": "b"})])
def test_names_that_cannot_be(tmp_path: Path, name: str, columns: dict[str, Any]) -> None:
    with TrajectoryRecorder(tmp_path, MemoryImageStore()) as recorder, pytest.raises((DatasetError, TypeError)):
        recorder.record(name, [_empty()], **columns)


def test_a_name_recorded_again_replaces_the_file(tmp_path: Path) -> None:
    store = MemoryImageStore()
    _record(tmp_path, store, _conversation(store), _empty())
    _record(tmp_path, store, _single_prompts(store))
    _record(tmp_path, store, _empty(), name="b")
    assert [len(t.steps) for t in load_trajectories(tmp_path)] == [3, 0]
    assert [len(t.steps) for t in load_trajectories(tmp_path, "b")] == [0]


# ----------------------------------------------------------------------------------------------- pictures


def _written_hashes(folder: Path) -> list[str]:
    return [h for f in sorted((folder / "images").glob("*")) for h in pq.read_table(f)["hash"].to_pylist()]


def test_each_picture_is_on_the_disk_once(tmp_path: Path) -> None:
    store = MemoryImageStore()
    _record(tmp_path, store, _conversation(store, 3), _conversation(store, 3))
    with TrajectoryRecorder(tmp_path, store) as recorder:
        recorder.record("b", [_conversation(store, 3)])
        recorder.record("c", [_conversation(store, 5)])
        recorder.record("c", [_conversation(store, 5)])
    hashes = _written_hashes(tmp_path)
    assert len(hashes) == len(set(hashes)) == 6  # the final frame too
    assert len(list((tmp_path / "images").glob("*.parquet"))) == 2


def test_disk_grows_linearly_in_a_conversation(tmp_path: Path) -> None:
    store = MemoryImageStore()
    for num_steps in (20, 40):
        _record(tmp_path, store, _conversation(store, num_steps), name=str(num_steps))
    rows = {n: pq.read_table(tmp_path / f"trajectories/{n}.parquet") for n in (20, 40)}
    prompt_characters = {n: sum(map(len, table["prompt"].to_pylist())) for n, table in rows.items()}
    assert prompt_characters[40] < 2.1 * prompt_characters[20]
    assert sum(map(len, rows[40]["image_hashes"].to_pylist())) == 40


def test_many_pictures_are_split_and_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "IMAGES_PER_SHARD", 100)
    store = MemoryImageStore()
    trajectory = _conversation(store, 230)
    _record(tmp_path, store, trajectory)
    assert [pq.read_metadata(f).num_rows for f in sorted((tmp_path / "images").iterdir())] == [100, 100, 31]
    read = DatasetImageStore(tmp_path, max_cached_bytes=3 * 12 * 10 * 3)
    hashes = [p.image_hash for m in trajectory.final_messages for p in m.parts if isinstance(p, ImagePart)]
    for image_hash in [*hashes, *hashes[::-1]]:
        np.testing.assert_array_equal(read.get(image_hash), store.get(image_hash))
    assert len(read._cache) == 3


def test_image_store_sees_later_shards(tmp_path: Path) -> None:
    store = MemoryImageStore()
    _record(tmp_path, store, _single_prompts(store))
    read = DatasetImageStore(tmp_path)
    _record(tmp_path, store, _conversation(store), name="b")
    assert store.put(_frame(2)) in read
    assert store.put(_frame(77)) not in read


def test_pictures_are_on_the_disk_before_the_rows_that_name_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []
    real = recorder_module.write_atomically
    monkeypatch.setattr(recorder_module, "write_atomically", lambda p, w: (order.append(p.parent.name), real(p, w)))
    store = MemoryImageStore()
    _record(tmp_path, store, _conversation(store))
    assert order == ["images", "trajectories"]


# ----------------------------------------------------------------------------------------------- the thread


def test_record_does_not_wait_for_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, gate = MemoryImageStore(), threading.Event()
    real = recorder_module.write_atomically
    monkeypatch.setattr(recorder_module, "write_atomically", lambda p, w: (gate.wait(10), real(p, w)))
    with TrajectoryRecorder(tmp_path, store) as recorder:
        recorder.record("a", [_single_prompts(store)])
        assert not list(tmp_path.rglob("*.parquet"))
        gate.set()
        recorder.flush()
        assert len(load_trajectories(tmp_path)) == 1


def test_a_full_disk_is_told_and_leaves_nothing_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryImageStore()
    _record(tmp_path, store, _single_prompts(store))

    def full(table: pa.Table, file: Any, **options: Any) -> None:
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    recorder = TrajectoryRecorder(tmp_path, store)
    monkeypatch.setattr(recorder_module.pq, "write_table", full)
    recorder.record("b", [_conversation(store)])
    with pytest.raises(DatasetError, match=r"disk is full: .*images.shard_000001.parquet"):
        recorder.flush()
    monkeypatch.undo()
    with pytest.raises(DatasetError, match="disk is full"):
        recorder.record("c", [_conversation(store)])  # its pictures were lost: nothing may refer to them
    with pytest.raises(DatasetError, match="disk is full"):
        recorder.close()
    assert [p.name for p in sorted(tmp_path.rglob("*")) if p.is_file()] == ["shard_000000.parquet", "a.parquet"]
    _record(tmp_path, store, _conversation(store), name="b")
    assert len(load_trajectories(tmp_path)) == 2


def test_nothing_is_written_after_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second file would name pictures that the first job took with it."""
    store, gate = MemoryImageStore(), threading.Event()
    real, calls = recorder_module.write_atomically, []

    def fail_once(path: Path, write: Any) -> None:
        gate.wait(10)
        calls.append(path)
        if len(calls) == 1:
            raise PermissionError("not now")
        real(path, write)

    monkeypatch.setattr(recorder_module, "write_atomically", fail_once)
    recorder = TrajectoryRecorder(tmp_path, store)
    recorder.record("a", [_conversation(store)])
    recorder.record("b", [_conversation(store)])
    gate.set()
    with pytest.raises(DatasetError, match=r"could not be written .*not now"):
        recorder.close()
    assert not list(tmp_path.rglob("*.parquet"))


def test_an_error_inside_the_block_is_the_one_to_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recorder_module, "image_to_png", lambda image: 1 / 0)
    store = MemoryImageStore()
    recorder = TrajectoryRecorder(tmp_path, store)
    recorder.record("a", [_single_prompts(store)])
    recorder.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)  # raises nothing of its own
    with pytest.raises(DatasetError, match="ZeroDivisionError"), TrajectoryRecorder(tmp_path, store) as recorder:
        recorder.record("a", [_single_prompts(store)])


def test_a_closed_recorder_refuses(tmp_path: Path) -> None:
    recorder = TrajectoryRecorder(tmp_path, MemoryImageStore())
    recorder.close()
    recorder.close()
    with pytest.raises(DatasetError, match="closed"):
        recorder.record("a", [])


def test_a_missing_picture_is_told_at_the_call(tmp_path: Path) -> None:
    trajectory = _single_prompts(MemoryImageStore())
    with (
        TrajectoryRecorder(tmp_path, MemoryImageStore()) as recorder,
        pytest.raises(DatasetError, match=r"image .* neither in memory"),
    ):
        recorder.record("a", [trajectory])


def test_leftovers_of_a_kill_are_removed(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/.shard_000000.parquet.tmp").write_bytes(b"half")
    _record(tmp_path, MemoryImageStore(), _empty())
    assert not list((tmp_path / "images").iterdir())


# ----------------------------------------------------------------------------------------------- damaged data


def test_missing_folders_say_what_to_type(tmp_path: Path) -> None:
    for read in (load_trajectories, DatasetImageStore, dataset_info):
        with pytest.raises(DatasetError, match=r"eyas collect ENV --policy expert --output .*gone"):
            read(tmp_path / "gone")
    with pytest.raises(DatasetError, match="no trajectories"):
        load_trajectories(tmp_path)
    _record(tmp_path, MemoryImageStore(), _empty())
    with pytest.raises(DatasetError, match="named 'b', only a"):
        load_trajectories(tmp_path, "b")


@pytest.mark.parametrize("part", ["trajectories/a", "images/shard_000000"])
@pytest.mark.parametrize("cut", [0, 0.5, 0.99])
def test_a_truncated_file_is_named(tmp_path: Path, part: str, cut: float) -> None:
    store = MemoryImageStore()
    _record(tmp_path, store, _conversation(store))
    path = tmp_path / f"{part}.parquet"
    path.write_bytes(path.read_bytes()[: int(cut * path.stat().st_size)])
    with pytest.raises(DatasetError, match=path.name):
        load_trajectories(tmp_path) if part.startswith("t") else DatasetImageStore(tmp_path)


def test_a_file_of_another_schema_is_named(tmp_path: Path) -> None:
    store = MemoryImageStore()
    _record(tmp_path, store, _conversation(store))
    path = tmp_path / "trajectories/a.parquet"
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["prompt"]), path)
    with pytest.raises(DatasetError, match=r"a\.parquet is cut short or damaged"):
        load_trajectories(tmp_path)
    pq.write_table(table.replace_schema_metadata({"eyas_schema": "0"}), path)
    with pytest.raises(DatasetError, match="schema version 0"):
        load_trajectories(tmp_path)


def _replace_first_png(folder: Path, png: bytes) -> str:
    path = folder / "images/shard_000000.parquet"
    table = pq.read_table(path)
    pngs = [png, *table["png"].to_pylist()[1:]]
    pq.write_table(table.set_column(1, "png", pa.array(pngs, pa.binary())), path)
    return table["hash"][0].as_py()


@pytest.mark.parametrize("png", [b"no png", image_to_png(_frame(99))], ids=["broken", "another picture"])
def test_a_damaged_picture_is_named_with_its_file(tmp_path: Path, png: bytes) -> None:
    store = MemoryImageStore()
    _record(tmp_path, store, _conversation(store))
    image_hash = _replace_first_png(tmp_path, png)
    with pytest.raises(DatasetError, match=rf"image {image_hash} in .*shard_000000\.parquet"):
        DatasetImageStore(tmp_path).get(image_hash)


def test_an_unknown_hash_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="image 00ff is in no shard"):
        DatasetImageStore(tmp_path).get("00ff")


def test_dataset_info(tmp_path: Path) -> None:
    info = {"num_episodes": 3, "num_steps": 10, "env_id": "eyas/NumberLine-v0", "policy": "expert"}
    write_dataset_info(tmp_path, info)
    assert dataset_info(tmp_path) == info
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(DatasetError, match=r"dataset\.json is no JSON"):
        dataset_info(tmp_path)
