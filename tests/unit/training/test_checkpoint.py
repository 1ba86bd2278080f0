import errno
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from eyas.errors import CheckpointError
from eyas.training import checkpoint as module
from eyas.training.checkpoint import latest_checkpoint, save_checkpoint, validate_checkpoint


def _writer(text: str = "weights") -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "model").mkdir()
        (folder / "model" / "weights.bin").write_text(text * 100)
        (folder / "counters.json").write_text("{}")

    return write


def _full_midway(folder: Path) -> None:
    (folder / "model").mkdir()
    (folder / "model" / "weights.bin").write_text("half")
    raise OSError(errno.ENOSPC, "No space left on device")


def _names(root: Path) -> list[str]:
    return sorted(p.name for p in root.iterdir())


def test_saved_checkpoint_is_whole(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "checkpoints", "iteration_000010", _writer())
    validate_checkpoint(path)
    assert latest_checkpoint(tmp_path / "checkpoints") == path
    assert (path / "model/weights.bin").read_text() == "weights" * 100
    assert _names(path.parent) == ["iteration_000010"]
    manifest = json.loads((path / "manifest.json").read_text())
    assert list(manifest["files"]) == ["counters.json", "model/weights.bin"]
    assert manifest["files"]["counters.json"]["size"] == 2


def test_latest_is_the_one_saved_last_whatever_its_name(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "none") is None
    for name in ("sft", "iteration_000002", "iteration_000010", "iteration_000009"):
        path = save_checkpoint(tmp_path, name, _writer())
        assert latest_checkpoint(tmp_path) == path


@pytest.mark.parametrize(
    "text", ["No space left on device", "Error while serializing: No space left on device (os error 28)"]
)
def test_full_disk_midway_costs_nothing_else(tmp_path: Path, text: str) -> None:
    good = save_checkpoint(tmp_path, "iteration_000001", _writer())

    def write(folder: Path) -> None:
        if "os error" in text:  # other libraries raise their own errors
            raise RuntimeError(text)
        _full_midway(folder)

    with pytest.raises(CheckpointError, match=r"disk is full: .*iteration_000002.*iteration_000001, is untouched"):
        save_checkpoint(tmp_path, "iteration_000002", write, keep_last=1)
    assert _names(tmp_path) == ["iteration_000001"]
    assert latest_checkpoint(tmp_path) == good
    with pytest.raises(CheckpointError, match="disk is full"):
        save_checkpoint(tmp_path, "iteration_000001", _full_midway)  # the same name
    validate_checkpoint(good)


def test_other_errors_go_through(tmp_path: Path) -> None:
    def interrupted(folder: Path) -> None:
        (folder / "half").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, "a", interrupted)
    with pytest.raises(ZeroDivisionError):
        save_checkpoint(tmp_path, "a", lambda folder: 1 / 0)
    assert _names(tmp_path) == []


def _truncate(path: Path) -> None:
    file = path / "model/weights.bin"
    file.write_bytes(file.read_bytes()[:-1])


def _flip(path: Path) -> None:
    file = path / "model/weights.bin"
    file.write_bytes(b"W" + file.read_bytes()[1:])


def _remove(path: Path) -> None:
    (path / "model/weights.bin").unlink()


def _cut_manifest(path: Path) -> None:
    file = path / "manifest.json"
    file.write_bytes(file.read_bytes()[:-20])


def _remove_manifest(path: Path) -> None:
    (path / "manifest.json").unlink()


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (_truncate, r"weights\.bin holds 699 bytes instead of 700"),
        (_flip, r"weights\.bin does not match its SHA-256"),
        (_remove, r"weights\.bin is missing"),
        (_cut_manifest, r"manifest\.json cannot be read"),
        (_remove_manifest, r"manifest\.json is missing"),
    ],
)
def test_a_damaged_newest_falls_back(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None], named: str
) -> None:
    good = save_checkpoint(tmp_path, "iteration_000001", _writer())
    bad = save_checkpoint(tmp_path, "iteration_000002", _writer())
    damage(bad)
    with pytest.raises(CheckpointError, match=named) as raised:
        validate_checkpoint(bad)
    assert "--resume" in str(raised.value)
    with caplog.at_level(logging.WARNING):
        assert latest_checkpoint(tmp_path) == good
    newer = save_checkpoint(tmp_path, "iteration_000003", _writer())
    assert latest_checkpoint(tmp_path) == newer


def test_a_skipped_checkpoint_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _truncate(save_checkpoint(tmp_path, "a", _writer()))
    assert latest_checkpoint(tmp_path) is None
    assert "weights.bin holds 699 bytes" in caplog.text


def test_no_checkpoint_at_all(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no checkpoint at"):
        validate_checkpoint(tmp_path / "gone")


def test_keep_last_prunes_only_older_numbers_of_the_same_stem(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "sft", _writer())
    save_checkpoint(tmp_path, "stage2_000001", _writer())
    for number in range(1, 6):
        save_checkpoint(tmp_path, f"iteration_{number:06d}", _writer(), keep_last=2)
    assert _names(tmp_path) == ["iteration_000004", "iteration_000005", "sft", "stage2_000001"]
    save_checkpoint(tmp_path, "best", _writer(), keep_last=1)
    assert "iteration_000004" in _names(tmp_path)
    with pytest.raises(CheckpointError, match="keep_last is at least 1"):
        save_checkpoint(tmp_path, "iteration_000006", _writer(), keep_last=0)


def test_pruning_goes_by_age_not_by_name(tmp_path: Path) -> None:
    for number in (8, 9, 3):  # a run that went on from an older point
        save_checkpoint(tmp_path, f"iteration_{number}", _writer(), keep_last=2)
    assert _names(tmp_path) == ["iteration_3", "iteration_9"]


def test_leftovers_of_a_kill_go_at_the_next_save(tmp_path: Path) -> None:
    (tmp_path / ".tmp-iteration_000001").mkdir(parents=True)
    (tmp_path / ".tmp-iteration_000001/half").write_text("x")
    assert latest_checkpoint(tmp_path) is None
    save_checkpoint(tmp_path, "iteration_000002", _writer())
    assert _names(tmp_path) == ["iteration_000002"]


def test_the_same_name_again_replaces(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, "sft", _writer("old"))
    path = save_checkpoint(tmp_path, "sft", _writer("new"))
    assert (path / "model/weights.bin").read_text().startswith("new")
    assert _names(tmp_path) == ["sft"]


@pytest.mark.parametrize("find", [latest_checkpoint, lambda root: validate_checkpoint(root / "sft"), None])
def test_a_kill_while_replacing_keeps_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, find: Callable[[Path], object] | None
) -> None:
    save_checkpoint(tmp_path, "sft", _writer("old"))
    real, kills = Path.replace, iter([False, True])

    def replace(self: Path, target: Path) -> Path:
        if next(kills):
            raise KeyboardInterrupt
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, "sft", _writer("new"))
    monkeypatch.undo()
    if find is None:
        save_checkpoint(tmp_path, "other", _writer())
    else:
        find(tmp_path)
    assert (tmp_path / "sft/model/weights.bin").read_text().startswith("old")
    validate_checkpoint(tmp_path / "sft")


def test_manifest_is_written_after_all_files_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    monkeypatch.setattr(
        module, "_fsync_file", lambda f: synced.append((f.name, (f.parents[1] / "manifest.json").exists()))
    )
    save_checkpoint(tmp_path, "a", _writer())
    assert synced == [("counters.json", False), ("weights.bin", False)]


@pytest.mark.parametrize("name", ["", ".hidden", "a/b", "../a"])
def test_names_that_cannot_be(tmp_path: Path, name: str) -> None:
    with pytest.raises(CheckpointError, match="cannot be a checkpoint's name"):
        save_checkpoint(tmp_path, name, _writer())


def test_a_copied_checkpoint_is_still_valid(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "a", "sft", _writer())
    shutil.copytree(path, tmp_path / "b")
    (tmp_path / "b/README.md").write_text("mine")
    validate_checkpoint(tmp_path / "b")
