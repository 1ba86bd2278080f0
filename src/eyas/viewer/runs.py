"""What is said of a run in the list, on its own page and beside another one."""

import threading
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from eyas.viewer.catalog import Catalog
from eyas.viewer.documents import number, read_config, read_json, tables
from eyas.viewer.folders import RunFolder
from eyas.viewer.progress import MetricsSummary, overall, read_records, stage_progress

_EVAL_KEYS = ("policy", "decoding", "strict_success_rate", "strict_success_interval", "return_mean")


class RunReader:
    """One run, with what was already read of it. Safe to call from several threads."""

    def __init__(self, run: RunFolder, catalog: Catalog) -> None:
        self.run = run
        self._catalog = catalog
        self._summary = MetricsSummary(run)
        self._lock = threading.Lock()

    def overview(self) -> dict[str, Any]:
        """The entry of the list; what could not be read stands in its `notes`."""
        return self._describe()[0]

    def details(self) -> dict[str, Any]:
        """The entry of the list, the resolved configuration as text, provenance and stages."""
        overview, text, environment, stages = self._describe()
        notes = overview["notes"] + self._catalog.notes()
        return overview | {"notes": notes, "config_toml": text, "environment": environment, "stages": stages}

    def _describe(self) -> tuple[dict[str, Any], str, dict[str, Any], list[dict[str, Any]]]:
        notes: list[str] = []
        with self._lock:
            self._summary.update()
            text, config = read_config(self.run, notes)
            environment = read_json(self.run, "environment.json", notes=notes)
            stages = stage_progress(self.run, config, self._summary)
            state = overall(self.run, stages, self._summary)
            headline = dict(self._summary.headline)
        dataset = read_json(self.run, "dataset.json", notes=notes)
        sessions = tables(environment, "sessions")
        envs = [str(task["env"]) for task in tables(config, "tasks") if "env" in task]
        overview = {
            "id": self.run.id,
            "name": str(config.get("name") or self.run.path.name),
            "env_ids": list(dict.fromkeys(envs)) or ([str(dataset["env"])] if "env" in dataset else []),
            **state,
            "seed": config.get("seed", dataset.get("seed")),
            "commit": sessions[-1].get("commit") if sessions else None,
            "algorithm": _algorithm(config),
            "main": {
                "strict_success_rate": headline.get("rollout/strict_success_rate"),
                "return_mean": headline.get("rollout/return_mean"),
                "eval": _ladder(read_json(self.run, "report.json", notes=notes)),
            },
            "notes": notes,
        }
        return overview, text, environment, stages

    def metrics(self, after: int) -> dict[str, Any]:
        """Records after a place that an earlier answer gave, with the environment steps of the stage so far."""
        records, place, is_reset = read_records(self.run, after)
        steps = _StepCounter(self._catalog)
        for record in records:
            record["num_env_steps"] = steps.up_to(record.get("stage"), record.get("iteration"))
        return {"records": records, "next": place} | ({"reset": True} if is_reset else {})

    def evaluations(self) -> dict[str, Any]:
        """Every report in `eval`, as it is written, by name."""
        notes: list[str] = []
        names = [file.name for file in self.run.files("eval", suffix=".json")]
        reports = [(name, read_json(self.run, "eval", name, notes=notes)) for name in names]
        entries = [report | {"name": name.removesuffix(".json")} for name, report in reports if tables(report, "rows")]
        return {"evaluations": entries, "notes": notes}


def _algorithm(config: dict[str, Any]) -> str | None:
    """What a run learns by: its rl stage's algorithm, else supervised fine-tuning, else nothing."""
    stages = tables(config, "stages")
    for stage in stages:
        if stage.get("kind") == "rl":
            algorithm = stage.get("algorithm")
            return str(algorithm.get("name")) if isinstance(algorithm, dict) else None
    return "sft" if any(stage.get("kind") == "sft" for stage in stages) else None


def _ladder(report: dict[str, Any]) -> list[dict[str, Any]]:
    return [{key: row.get(key) for key in _EVAL_KEYS} for row in tables(report, "rows")]


class _StepCounter:
    """Environment steps of each stage, counted from the footers of its trajectories."""

    def __init__(self, catalog: Catalog) -> None:
        counts: dict[str, dict[int, int]] = {}
        for file in catalog.update():
            if file.stage is not None and file.iteration is not None and not file.name.startswith("datasets/"):
                of_stage = counts.setdefault(file.stage, {})
                of_stage[file.iteration] = of_stage.get(file.iteration, 0) + file.steps
        self._iterations = {stage: sorted(of_stage) for stage, of_stage in counts.items()}
        self._totals = {s: list(accumulate(counts[s][i] for i in order)) for s, order in self._iterations.items()}

    def up_to(self, stage: Any, iteration: Any) -> int | None:
        """None where the stage records no trajectories."""
        if stage not in self._totals or number(iteration) is None:
            return None
        done = bisect_right(self._iterations[stage], iteration)
        return self._totals[stage][done - 1] if done else 0


# ----------------------------------------------------------------------------------------------- differences


def differences(runs: Sequence[RunFolder]) -> dict[str, Any]:
    """The settings that are not the same in all runs: `rows` of a `key` and its `values`, None where it is not set."""
    notes: list[str] = []
    flat = [_flatten(read_config(run, notes)[1]) for run in runs]
    keys = dict.fromkeys(key for settings in flat for key in settings)
    rows = [{"key": key, "values": [settings.get(key) for settings in flat]} for key in keys]
    return {"rows": [row for row in rows if any(v != row["values"][0] for v in row["values"])], "notes": notes}


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Settings by the name that `eyas train` takes: `stages.rl.iterations`, `tasks.0.env`."""
    if isinstance(value, dict) and value:
        pairs = value.items()
    elif isinstance(value, list) and value and all(isinstance(element, dict) for element in value):
        pairs = ((element.get("name", index), element) for index, element in enumerate(value))
    else:
        return {prefix: value}
    return {
        k: v for name, part in pairs for k, v in _flatten(part, f"{prefix}.{name}" if prefix else str(name)).items()
    }
