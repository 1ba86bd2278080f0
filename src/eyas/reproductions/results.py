"""What finished runs found: one record a run, the numbers of its measures, and what they say of the claim."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from eyas.config import EvalStage, RLStage, RunConfig, SFTStage
from eyas.errors import DatasetError
from eyas.evaluation.records import EvalReport, EvalRow, read_metrics
from eyas.evaluation.statistics import Interval, student_t_interval
from eyas.files import write_atomically
from eyas.reproductions import Definition, Job, Measure, Reference, Seeds, Statement
from eyas.reproductions.running import attempts

Curve = list[tuple[float, float]]


@dataclass(frozen=True)
class Record:
    """One run, as it is kept beside the page: all that the page says of it follows from this."""

    arm: str
    seed: int
    evaluations: Mapping[str, EvalReport]  # by eval stage
    curves: Mapping[str, Curve]  # "stage metric" -> (iteration, value), of the metrics that the definition names
    compute: Mapping[str, float]  # by eval stage: passes of the model over a step until then, see `compute_before`
    wall_s: float
    cpu_s: float | None

    def row(self, evaluation: str, policy: str | None, decoding: str) -> EvalRow | None:
        """The row of a policy; of the last on the ladder where none is named."""
        report = self.evaluations.get(evaluation)
        rows = [r for r in (report.rows if report else ()) if r.decoding == decoding and policy in (None, r.policy)]
        return rows[-1] if rows else None

    def value(self, measure: Measure) -> float | None:
        if measure.metric is None:
            row = self.row(measure.eval, measure.row, measure.decoding)
            return None if row is None else getattr(row, measure.value)
        values = [y for _, y in self.curves.get(f"{measure.stage} {measure.metric}", [])]
        values = values[: measure.iterations] if measure.at == "first" else values[-measure.iterations :]
        return fmean(values) if values else None

    def save(self, folder: Path) -> None:
        evaluations = {name: json.loads(report.to_json()) for name, report in self.evaluations.items()}
        text = json.dumps(asdict(self) | {"evaluations": evaluations}, indent=1) + "\n"
        write_atomically(folder / f"{self.arm}_{self.seed}.json", lambda file: file.write(text.encode()))

    @classmethod
    def load(cls, path: Path) -> "Record":
        """The inverse of `save`. Raises `DatasetError` for anything else."""
        try:
            table = json.loads(path.read_text())
            reports = {k: EvalReport.from_json(json.dumps(v)) for k, v in table["evaluations"].items()}
            return cls(**table | {"evaluations": reports})
        except (ValueError, KeyError, TypeError) as error:
            raise DatasetError(f"{path} is no record of a run ({error}): delete it, and reproduce again") from error


def record_of(job: Job, definition: Definition) -> Record:
    """Reads a finished run's folder."""
    named = [(p.stage, p.metric) for p in definition.panels] + [(m.stage, m.metric) for m in definition.measures]
    metrics = read_metrics(job.folder / "metrics.jsonl")
    curves = {
        f"{stage} {metric}": [
            (r["iteration"], r[metric]) for r in metrics if r["stage"] == stage and r.get(metric) is not None
        ]
        for stage, metric in named
        if metric is not None
    }
    evals = [stage.name for stage in job.config.stages if isinstance(stage, EvalStage)]
    reports = {name: EvalReport.from_json((job.folder / "eval" / f"{name}.json").read_text()) for name in evals}
    spent = attempts(job)
    cpu = [a["cpu_s"] for a in spent]
    cpu_s = None if None in cpu else sum(cpu)
    compute = compute_before(job.config)
    return Record(job.arm, job.seed, reports, curves, compute, sum(a["wall_s"] for a in spent), cpu_s)


def compute_before(config: RunConfig) -> dict[str, float]:
    """Forward passes over one step's prompt and completion before each eval stage: an update of a sample counts 3.

    (An update costs twice a forward pass more: Chu et al. 2025, appendix, after Kaplan et al. 2020.) Side branches do not
    count. Evaluations after a stage whose number of steps is not known beforehand are left out.
    """
    passes: float | None = 0.0
    found = {}
    for stage in config.stages:
        if isinstance(stage, SFTStage) and not stage.is_side_branch and passes is not None:
            passes = None if stage.steps is None else passes + 3.0 * stage.steps * stage.batch_size
        elif isinstance(stage, RLStage) and passes is not None:
            steps = stage.num_envs * stage.rollout_steps if stage.rollout_steps else None
            passes = None if steps is None else passes + stage.iterations * steps * (1.0 + 3.0 * stage.epochs)
        elif isinstance(stage, EvalStage) and passes is not None:
            found[stage.name] = passes
    return found


# ----------------------------------------------------------------------------------------------- what they say

Finding = Literal["for", "against", "undecided", "unknown"]
RULE = (
    "The rule, fixed beforehand: the difference is taken seed by seed, and a statement is supported where the 95 % interval "
    "of its mean (Student's t over seeds) lies above 0, contradicted where it lies below 0, and else undecided. Where numbers "
    "are missing, or there is one seed only, it is unknown."
)


@dataclass(frozen=True)
class Judgement:
    """A statement, and what the runs say of it."""

    statement: Statement
    finding: Finding
    greater: float | None  # mean over seeds
    lesser: float | None
    difference: float | None
    interval: Interval | None


def values_of(records: Iterable[Record], arm: str, measure: Measure) -> dict[int, float]:
    """The measure of each seed that has it."""
    found = {r.seed: r.value(measure) for r in records if r.arm == arm}
    return {seed: value for seed, value in found.items() if value is not None}


def judge(definition: Definition, records: Sequence[Record], seeds: Seeds, statement: Statement) -> Judgement:
    """Compares the two sides of a statement seed by seed, over the seeds that both arms were to have."""
    paired = [seed for seed in seeds[statement.greater[0]] if seed in seeds[statement.lesser[0]]]

    def side(reference: Reference) -> dict[int, float]:
        return values_of(records, reference[0], definition.measure(reference[1]))

    greater, lesser = side(statement.greater), side(statement.lesser)
    if not paired or any(seed not in greater or seed not in lesser for seed in paired):
        return Judgement(statement, "unknown", None, None, None, None)
    differences = [greater[seed] - lesser[seed] for seed in paired]
    interval = student_t_interval(differences)
    means = fmean(greater[s] for s in paired), fmean(lesser[s] for s in paired), fmean(differences)
    return Judgement(statement, _finding(interval), *means, interval)


def _finding(interval: Interval | None) -> Finding:
    if interval is None:
        return "unknown"
    if interval[0] > 0:
        return "for"
    return "against" if interval[1] < 0 else "undecided"


def summary(judgements: Sequence[Judgement]) -> list[dict[str, Any]]:
    """As plain data."""
    return [
        {"statement": j.statement.text, "finding": j.finding, "difference": j.difference, "interval": j.interval}
        for j in judgements
    ]
