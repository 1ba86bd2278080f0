"""Folders that one process holds."""

from pathlib import Path

import pytest

from eyas.errors import ConfigError
from eyas.files import alone


def test_a_folder_that_is_held_is_refused_until_it_is_free(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    with alone(folder, ".lock", "at work"):
        with pytest.raises(ConfigError, match="at work"), alone(folder, ".lock", "at work"):
            pass
        with alone(folder, ".other", "at work"):
            pass
    with alone(folder, ".lock", "at work") as lock:
        assert lock is not None


def test_what_fails_inside_frees_the_folder_and_is_raised(tmp_path: Path) -> None:
    with pytest.raises(BlockingIOError), alone(tmp_path, ".lock", "at work"):
        raise BlockingIOError
    with alone(tmp_path, ".lock", "at work") as lock:
        assert lock is not None


def test_a_folder_is_not_made_where_that_is_not_asked_for(tmp_path: Path) -> None:
    with alone(tmp_path / "none", ".lock", "at work", makes_folder=False) as lock:
        assert lock is None
    assert not (tmp_path / "none").exists()
