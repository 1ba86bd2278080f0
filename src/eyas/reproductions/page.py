"""The page of a definition, written from the records of its runs and nothing else."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from eyas.evaluation.records import EvalRow
from eyas.evaluation.statistics import Interval, student_t_interval
from eyas.reproductions import Arm, Definition, Scale, Seeds, every_seed, label_of
from eyas.reproductions.results import RULE, Finding, Judgement, Record, judge, values_of

_DECODINGS = {"greedy": "greedy", "sample": "T = 1"}
_UNKNOWN = "–"
_NOT_PLANNED = ""
_SAID: dict[Finding, str] = {
    "for": "For.",
    "against": "Against.",
    "undecided": "Undecided.",
    "unknown": "Unknown.",
}
_CELLS = {
    "success": "Strict success in % (no fallback action in the episode), Wilson 95 % in brackets",
    "return": "Return of the environment, bootstrapped 95 % in brackets",
}


def write_page(
    definition: Definition,
    records: Sequence[Record],
    failed: Mapping[str, str],
    seeds: Seeds,
    output: Path,
    scale: Scale = "laptop",
    is_quick: bool = False,
    has_figure: bool = False,
) -> Path:
    """Writes `output/LABEL.md`. `failed` says of each run that failed why; beside the page `LABEL/remarks.md`, if any, is
    quoted, and references are read from `LABEL/sb3*.json`."""
    label = label_of(definition, scale, is_quick)
    sections = [
        f"# {definition.title}",
        _about(definition, scale, is_quick),
        _arms(definition, scale),
        _tables(definition, records, seeds),
        f"![Every seed, and the mean over seeds]({label}/figure.png)" if has_figure else "",
        _failures(failed),
        _judgements(definition, records, seeds),
        _references(output / label),
        (output / label / "remarks.md").read_text().strip() if (output / label / "remarks.md").exists() else "",
        _provenance(definition, records, seeds, scale, is_quick),
    ]
    path = output / f"{label}.md"
    path.write_text("\n\n".join(section for section in sections if section) + "\n", encoding="utf-8")
    return path


def _about(definition: Definition, scale: Scale, is_quick: bool) -> str:
    notes = [f"Source: {definition.source}"] if definition.source else []
    notes += [definition.claim.strip(), definition.analogue.strip()]
    if scale == "paper":
        notes.append("This is the definition's scale of the paper.")
    if is_quick:
        notes.append("**These are quick runs: they show that the parts work together, and say nothing of the claim.**")
    return "\n\n".join(filter(None, notes))


def _arms(definition: Definition, scale: Scale) -> str:
    lines = [
        " ".join([f"- `{arm.name}`: recipe `{arm.recipe}`", *(f"`{o}`" for o in _overrides(arm, scale))])
        for arm in definition.arms
    ]
    if scale == "paper":
        lines.append("- all of them with " + " ".join(f"`{override}`" for override in definition.paper))
    return "\n".join(["Arms, fixed before they were run:", "", *lines])


def _overrides(arm: Arm, scale: Scale) -> tuple[str, ...]:
    return arm.set + (arm.paper if scale == "paper" else ())


# ----------------------------------------------------------------------------------------------- numbers


def _with_interval(text: str, low: str, high: str) -> str:
    return f"{text} ({low} to {high})" if "-" in low + high else f"{text} ({low}–{high})"


def _number(value: float | None, interval: Interval | None, is_share: bool) -> str:
    """A value with its interval: shares in per cent."""
    if value is None:
        return _UNKNOWN
    factor, form = (100.0, ".1f") if is_share else (1.0, ".1f" if abs(value) >= 10 else ".3g")
    texts = [f"{factor * x:{form}}" for x in (value, *(interval or ()))]
    return texts[0] if interval is None else _with_interval(*texts)


def _over_seeds(values: Sequence[float], num_seeds: int, is_share: bool) -> str:
    """The mean with Student's t interval, which for a share ends at 0 and 1; unknown where a seed is missing."""
    if len(values) != num_seeds:
        return _UNKNOWN
    interval = student_t_interval(values)
    if interval is not None and is_share:
        interval = max(0.0, interval[0]), min(1.0, interval[1])
    return _number(fmean(values), interval, is_share)


def _cell(row: EvalRow, shows: str) -> tuple[float | None, Interval | None]:
    if shows == "success":
        return row.strict_success_rate, row.strict_success_interval
    return row.return_mean, row.return_interval


# ----------------------------------------------------------------------------------------------- tables


def _tables(definition: Definition, records: Sequence[Record], seeds: Seeds) -> str:
    evals = list(dict.fromkeys(name for record in records for name in record.evaluations))
    episodes = sorted({row.episodes for r in records for e in r.evaluations.values() for row in e.rows})
    parts = [
        f"{_CELLS[definition.shows]}, n = {' / '.join(map(str, episodes))} episodes a cell on evaluation seeds that "
        f"training never saw; over seeds the mean with Student's t interval. {_count(seeds)}"
    ]
    for name in evals:
        heading = [f"### `{name}`", ""] if len(evals) > 1 else []
        parts.append("\n".join([*heading, *_rows_table(definition, records, seeds, name)]))
    if metrics := _metrics_table(definition, records, seeds):
        parts.append("\n".join(["Training, means over a few iterations:", "", *metrics]))
    return "\n\n".join(parts) if records else ""


def _count(seeds: Seeds) -> str:
    counts: dict[int, list[str]] = {}
    for arm, own in seeds.items():
        counts.setdefault(len(own), []).append(arm)
    if len(counts) == 1:
        return f"Seeds: {next(iter(counts))}."
    return "Seeds: " + "; ".join(f"{count} of {', '.join(arms)}" for count, arms in counts.items()) + "."


def _head(names: Sequence[str], seeds: Seeds, after: Sequence[str]) -> list[str]:
    cells = [*names, *(f"seed {seed}" for seed in every_seed(seeds)), "mean (95 %)", *after]
    return [f"| {' | '.join(cells)} |", "|" + "---|" * len(cells)]


def _rows_table(definition: Definition, records: Sequence[Record], seeds: Seeds, evaluation: str) -> list[str]:
    """A line for each arm's policy under each decoding; arms with the same numbers on every seed share one."""
    found: dict[tuple[str, str, str], dict[int, EvalRow]] = {}
    for record in records:
        for row in record.evaluations[evaluation].rows if evaluation in record.evaluations else ():
            found.setdefault((record.arm, row.policy, row.decoding), {})[record.seed] = row
    shared: dict[tuple[object, ...], list[str]] = {}
    for (arm, policy, decoding), by_seed in found.items():
        cells = [
            _cells(by_seed.get(s), definition.shows) if s in seeds[arm] else _NOT_PLANNED for s in every_seed(seeds)
        ]
        line = (policy, decoding, *cells, *_summary(definition, list(by_seed.values()), len(seeds[arm])))
        shared.setdefault(line, []).append(arm)
    lines = _head(["arm", "policy", "decoding"], seeds, ["return", "facts right"])
    for (policy, decoding, *cells), arms in shared.items():
        names = "every arm" if len(arms) == len(definition.arms) > 1 else ", ".join(arms)
        lines.append(f"| {names} | {policy} | {_DECODINGS[str(decoding)]} | {' | '.join(map(str, cells))} |")
    return lines


def _cells(row: EvalRow | None, shows: str) -> str:
    return _UNKNOWN if row is None else _number(*_cell(row, shows), shows == "success")


def _summary(definition: Definition, rows: Sequence[EvalRow], num_seeds: int) -> list[str]:
    """Mean over seeds, mean return, and share of facts that were written down right."""
    values = [v for row in rows if (v := _cell(row, definition.shows)[0]) is not None]
    returns = [row.return_mean for row in rows if row.return_mean is not None]
    facts = [row.recognition_accuracy for row in rows if row.recognition_accuracy is not None]
    return [
        _over_seeds(values, num_seeds, definition.shows == "success"),
        f"{fmean(returns):.3f}" if returns else _UNKNOWN,
        _number(fmean(facts), None, True) if facts else _UNKNOWN,
    ]


def _metrics_table(definition: Definition, records: Sequence[Record], seeds: Seeds) -> list[str]:
    lines = []
    for measure in (m for m in definition.measures if m.metric is not None):
        for arm in definition.arms:
            values = values_of(records, arm.name, measure)
            if values:
                own = seeds[arm.name]
                shown = {s: _number(values.get(s), None, measure.is_share) for s in own}
                cells = [shown.get(seed, _NOT_PLANNED) for seed in every_seed(seeds)]
                mean = _over_seeds(list(values.values()), len(own), measure.is_share)
                lines.append(
                    f"| `{measure.metric}`, {measure.at} {measure.iterations} | {arm.name} | {' | '.join(cells)} | {mean} |"
                )
    return [*_head(["metric", "arm"], seeds, []), *lines] if lines else []


# ----------------------------------------------------------------------------------------------- words


def _failures(failed: Mapping[str, str]) -> str:
    lines = [f"- {run}: {why}" for run, why in failed.items()]
    return "\n".join(["Runs that failed, whose numbers are missing above:", "", *lines]) if lines else ""


def _judgements(definition: Definition, records: Sequence[Record], seeds: Seeds) -> str:
    if not definition.statements:
        return ""
    found = [judge(definition, records, seeds, statement) for statement in definition.statements]
    counts = [f"{sum(j.finding == f for j in found)} {f}" for f in _SAID if any(j.finding == f for j in found)]
    said = f"Of {len(found)} statements: {', '.join(counts)}."
    lines = [f"- **{_SAID[j.finding]}** {_judgement(definition, j)}" for j in found]
    return "\n".join(["## What this says for and against the claim", "", RULE, "", said, "", *lines])


def _judgement(definition: Definition, judgement: Judgement) -> str:
    statement = judgement.statement
    is_share = definition.measure(statement.greater[1]).is_share
    sides = [
        f"{_number(value, None, is_share)}{' %' if is_share else ''} ({' '.join(reference)})"
        for value, reference in ((judgement.greater, statement.greater), (judgement.lesser, statement.lesser))
    ]
    if judgement.difference is None:
        return f"{statement.text}: not every seed has these numbers."
    difference = _number(judgement.difference, judgement.interval, is_share)
    return f"{statement.text}: {sides[0]} against {sides[1]}, difference {difference}{' points' if is_share else ''}."


def _references(folder: Path) -> str:
    """What `scripts/reference_sb3.py` found for the same observation, where it was run."""
    lines = []
    for path in sorted(folder.glob("sb3*.json")):
        found = json.loads(path.read_text())
        rows = found["rows"]
        rates = ", ".join(_number(row["success_rate"], row["success_interval"], True) for row in rows)
        success = "" if found["success_mean"] is None else f"success in % {rates}, "
        returns = ", ".join(f"{row['return_mean']:.2f}" for row in rows)
        minutes = fmean(row["duration_s"] for row in rows) / 60
        lines.append(
            f"Reference: {found['algorithm']} of Stable-Baselines3 {found['stable_baselines3']} on the same observation, "
            f"without demonstrations, {found['steps']} environment steps, greedy, seeds {[row['seed'] for row in rows]}: "
            f"{success}return {returns}; {minutes:.1f} minutes a seed "
            f"(`python scripts/reference_sb3.py {found['recipe']} --steps {found['steps']}`)."
        )
    return "\n".join(lines)


def _provenance(definition: Definition, records: Sequence[Record], seeds: Seeds, scale: Scale, is_quick: bool) -> str:
    is_fixed = all(tuple(own) == tuple(definition.seeds_of_arms[arm]) for arm, own in seeds.items())
    chosen = [] if is_fixed or is_quick else [f"--seeds {','.join(map(str, every_seed(seeds)))}"]
    options = [*([f"--scale {scale}"] if scale != "laptop" else []), *(["--quick"] if is_quick else []), *chosen]
    text = f"Command: `{' '.join(['eyas reproduce', definition.name, *options])}`."
    if chosen:
        text += (
            f" The seeds are not those fixed beforehand, {', '.join(map(str, every_seed(definition.seeds_of_arms)))}."
        )
    reports = [e for r in records for e in r.evaluations.values()]
    if not reports:
        return text
    commits = sorted({e.commit[:12] + (" with uncommitted changes" if e.dirty else "") for e in reports})
    hardware = reports[0].hardware
    gpus = "".join(f", {gpu}" for gpu in dict.fromkeys(hardware.get("gpus") or []))
    return (
        f"{text} Commit {', '.join(commits)}. Hardware: {hardware.get('cpu')}, {hardware.get('cores')} cores{gpus}, "
        f"other work beside them. {_times(definition, records, scale, is_quick)} "
        f"Finished {max(e.created for e in reports)[:10]}."
    )


def _times(definition: Definition, records: Sequence[Record], scale: Scale, is_quick: bool) -> str:
    """Wall minutes of each arm's runs; their CPU time too, where it is known of all."""
    arms = {a.name: [r for r in records if r.arm == a.name] for a in definition.arms}
    wall = [f"{arm} {fmean(r.wall_s for r in own) / 60:.1f}" for arm, own in arms.items() if own]
    text = f"Wall minutes a run: {', '.join(wall)}."
    cpu = {arm: [r.cpu_s for r in own if r.cpu_s is not None] for arm, own in arms.items()}
    if sum(map(len, cpu.values())) < len(records):
        return text
    total = sum(map(sum, cpu.values())) / 3600
    budget = f" of {definition.budget_core_hours:g} in the budget" if scale == "laptop" and not is_quick else ""
    each = ", ".join(f"{arm} {fmean(own) / 60:.1f}" for arm, own in cpu.items() if own)
    return f"{text} CPU minutes a run: {each}; in all {total:.2f} core-hours{budget}."
