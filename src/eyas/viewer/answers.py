"""Every question that the page asks, answered as plain data: the server sends it, an export writes it down."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from eyas.viewer.catalog import Catalog
from eyas.viewer.checkpoints import play_commands
from eyas.viewer.episode import read_episode, split_key
from eyas.viewer.episodes import EpisodeQuery, episode_row, find_episodes
from eyas.viewer.films import film_file, list_films
from eyas.viewer.folders import File, Library, RunFolder
from eyas.viewer.index import Database, EpisodeIndex
from eyas.viewer.pictures import Pictures
from eyas.viewer.problems import NotServed
from eyas.viewer.runs import RunReader, differences
from eyas.viewer.thoughts import thought_health
from eyas.viewer.tokens import Tokenizers


class OpenRun:
    """What was read of a run so far. Nothing is read before it is asked for."""

    def __init__(self, folder: RunFolder, database: Database) -> None:
        self.folder = folder
        self.catalog = Catalog(folder)
        self.reader = RunReader(folder, self.catalog)
        self.index = EpisodeIndex(database, self.catalog)
        self.pictures = Pictures(folder)


class Answers:
    """Answers on the runs of a library. Raises `NotServed` and `BadQuestion`. Safe to call from several threads."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self._database = Database()
        self._tokenizers = Tokenizers()
        self._open: dict[RunFolder, OpenRun] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        self._database.close()

    def run(self, run_id: str) -> OpenRun:
        return self._opened(self.library.run(run_id))

    def _opened(self, folder: RunFolder) -> OpenRun:
        with self._lock:
            if folder not in self._open:
                self._open[folder] = OpenRun(folder, self._database)
            return self._open[folder]

    def warm(self) -> None:
        """Reads the run that was written last, so that its table is there when it is opened, and its thoughts after it."""
        runs = [self._opened(folder) for folder in self.library.runs()]
        if runs:
            max(runs, key=lambda run: run.reader.overview()["updated"]).index.update_thoughts()

    # ------------------------------------------------------------------------------------- runs

    def runs(self) -> dict[str, Any]:
        """Every run, the one that was written last first."""
        overviews = [self._opened(folder).reader.overview() for folder in self.library.runs()]
        overviews.sort(key=lambda overview: -overview["updated"])
        return {"runs": overviews, "notes": [f"{o['id']}: {note}" for o in overviews for note in o["notes"]]}

    def details(self, run_id: str) -> dict[str, Any]:
        return self.run(run_id).reader.details()

    def differences(self, run_ids: Sequence[str]) -> dict[str, Any]:
        return differences([self.library.run(run_id) for run_id in run_ids])

    def metrics(self, run_id: str, after: int = 0) -> dict[str, Any]:
        return self.run(run_id).reader.metrics(after)

    def evaluations(self, run_id: str) -> dict[str, Any]:
        return self.run(run_id).reader.evaluations()

    def play_commands(self, run_id: str) -> dict[str, Any]:
        return play_commands(self.library.run(run_id))

    def films(self, run_id: str) -> dict[str, Any]:
        return list_films(self.library.run(run_id))

    def film(self, run_id: str, name: str) -> File:
        return film_file(self.library.run(run_id), name)

    # ------------------------------------------------------------------------------------- episodes

    def episodes(self, run_id: str, parameters: Mapping[str, str]) -> dict[str, Any]:
        return find_episodes(self.run(run_id).index, EpisodeQuery.of(parameters))

    def episode(self, run_id: str, key: str) -> dict[str, Any]:
        run, (name, trajectory) = self.run(run_id), split_key(key)
        file = run.catalog.file(name)
        row = episode_row(run.index, name, trajectory)
        if row is None:
            raise NotServed(f"run {run_id!r} has no episode {key!r}: go back to the list of episodes")
        return {"episode": row} | read_episode(file, trajectory, self._tokenizers.of(run.folder))

    def thoughts(self, run_id: str, stage: str | None = None) -> dict[str, Any]:
        run = self.run(run_id)
        return thought_health(run.folder, run.index, stage)

    def picture(self, run_id: str, image_hash: str, size: int | None = None) -> bytes:
        """A PNG."""
        pictures = self.run(run_id).pictures
        return pictures.png(image_hash) if size is None else pictures.thumbnail(image_hash, size)
