"""From plain data to what a person reads: a table in the terminal, one HTML file, a picture of an episode."""

import base64
import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from PIL import Image
from rich import box
from rich.markup import escape
from rich.table import Table

from eyas.evaluation.figures import action_name, curves_svg, frame_hash, outcome, panels, picture, thought
from eyas.evaluation.records import EvalReport, EvalRow, read_metrics
from eyas.evaluation.statistics import Interval
from eyas.files import write_atomically
from eyas.rollouts.images import image_to_png
from eyas.types import ImageSource, Step, Trajectory

_PAGE = Path(__file__).with_name("report.html")
_UNKNOWN = "–"
_EPISODES_BUDGET_BYTES = 4_000_000  # the rest of the page stays far below 1 MB
_MAX_STEPS_SHOWN = 60
_MAX_TEXT_CHARACTERS = 2000
_NAMES = {
    "random": "random legal actions",
    "constant": "best constant action",
    "expert": "expert",
    "untrained": "untrained",
    "sft": "SFT",
    "sft_continued": "SFT continued",
    "rl": "RL",
}


# ----------------------------------------------------------------------------------------------- table


def _group_by_policy(rows: Iterable[EvalRow]) -> dict[str, dict[str, EvalRow]]:
    grouped: dict[str, dict[str, EvalRow]] = {}
    for row in rows:
        grouped.setdefault(row.policy, {})[row.decoding] = row
    return grouped


def _percent(share: float | None, sign: str = "%") -> str:
    """With one decimal where it has one: 99.6 % is not 100 %."""
    return _UNKNOWN if share is None else f"{100 * share:.1f}".removesuffix(".0") + sign


def _percent_interval(interval: Interval | None) -> str:
    return "" if interval is None else f"{100 * interval[0]:.0f}–{100 * interval[1]:.0f}"


def _number(value: float | None) -> str:
    return _UNKNOWN if value is None else f"{value:.2f}"


def _number_interval(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval[0]:.2f} to {interval[1]:.2f}"


def _both(by_decoding: Mapping[str, EvalRow], form: Callable[[EvalRow], str], join: str = "/") -> str:
    """Greedy, then temperature 1, in one cell; one value where both are unknown or there is only one."""
    rows = [by_decoding[d] for d in ("greedy", "sample") if d in by_decoding] or list(by_decoding.values())
    forms = [form(row) for row in rows]
    return _UNKNOWN if set(forms) == {_UNKNOWN} else join.join(forms)


def _success_cell(row: EvalRow | None) -> str:
    if row is None:
        return _UNKNOWN
    return f"{_percent(row.success_rate, '')}\n{_percent_interval(row.success_interval)}".strip()


def _episodes(by_decoding: Mapping[str, EvalRow]) -> str:
    return " / ".join(dict.fromkeys(str(row.episodes) for row in by_decoding.values()))


def format_table(report: EvalReport) -> Table:
    """One line a policy. Two values in a cell are greedy/temperature 1; the interval stands below the success rate."""
    title, caption = escape(f"{report.env}, seed {report.seed}"), "a/b: greedy/T=1; below: 95 % interval"
    table = Table(title=title, caption=caption, box=box.SIMPLE_HEAD, pad_edge=False, padding=0)
    table.add_column("policy", no_wrap=True)
    for name in ("n", "success %\ngreedy", "success %\nT=1", "strict %", "return", "parsed %", "facts %"):
        table.add_column(name, justify="right")
    for policy, by_decoding in _group_by_policy(report.rows).items():
        table.add_row(
            escape(policy),
            _episodes(by_decoding),
            _success_cell(by_decoding.get("greedy")),
            _success_cell(by_decoding.get("sample")),
            _both(by_decoding, lambda r: _percent(r.strict_success_rate, "")),
            _both(by_decoding, lambda r: _number(r.return_mean)),
            _both(by_decoding, lambda r: _percent(r.parse_rate, "")),
            _both(by_decoding, lambda r: _percent(r.recognition_accuracy, "")),
        )
    return table


# ----------------------------------------------------------------------------------------------- HTML


def _text(value: Any) -> str:
    text = str(value)
    cut = text if len(text) <= _MAX_TEXT_CHARACTERS else text[:_MAX_TEXT_CHARACTERS] + " …"
    return html.escape(cut)


def _tag(name: str, content: str, css: str = "") -> str:
    return f'<{name} class="{css}">{content}</{name}>' if css else f"<{name}>{content}</{name}>"


def _whisker(row: EvalRow) -> str:
    """The success rate and its interval on a line from 0 to 1."""
    if row.success_rate is None:
        return ""
    low, high = row.success_interval or (row.success_rate, row.success_rate)
    x = [4 + 112 * share for share in (low, high, row.success_rate)]
    return (
        '<svg class="whisker" viewBox="0 0 120 12" aria-hidden="true"><line x1="4" x2="116" y1="6" y2="6" class="axis"/>'
        f'<line x1="{x[0]:.1f}" x2="{x[1]:.1f}" y1="6" y2="6" class="range"/><circle cx="{x[2]:.1f}" cy="6" r="3.5"/></svg>'
    )


def _with_interval(value: str, interval: str) -> str:
    return f'{value}<span class="interval">{interval}</span>' if interval else value


def _success_html(row: EvalRow | None) -> str:
    if row is None:
        return _tag("td", _UNKNOWN, "absent")
    cell = _with_interval(_percent(row.success_rate), _percent_interval(row.success_interval))
    return _tag("td", f'<div class="rate">{cell}</div>{_whisker(row)}', "success")


def _results_row(policy: str, by_decoding: Mapping[str, EvalRow]) -> str:
    forms: tuple[Callable[[EvalRow], str], ...] = (
        lambda row: _with_interval(_percent(row.strict_success_rate), _percent_interval(row.strict_success_interval)),
        lambda row: _with_interval(_number(row.return_mean), _number_interval(row.return_interval)),
        lambda row: _percent(row.parse_rate),
        lambda row: _percent(row.recognition_accuracy),
    )
    cells = [_tag("th", _text(_NAMES.get(policy, policy))), _tag("td", _episodes(by_decoding))]
    cells += [_success_html(by_decoding.get("greedy")), _success_html(by_decoding.get("sample"))]
    cells += [_tag("td", _both(by_decoding, form, join="<br>")) for form in forms]
    return _tag("tr", "".join(cells))


def _results(report: EvalReport) -> str:
    heads = (
        "policy",
        "episodes",
        "success, greedy",
        "success, T=1",
        "strict success",
        "return",
        "parsed",
        "facts right",
    )
    head = _tag("tr", "".join(_tag("th", h) for h in heads))
    body = "".join(_results_row(policy, rows) for policy, rows in _group_by_policy(report.rows).items())
    note = (
        "Of two values in a cell the upper is greedy, the lower at temperature 1. Small print is the 95 % interval: Wilson for success, bootstrap for "
        "return. Strict success counts an episode with any fallback action as failed."
    )
    table = f'<div class="wide"><table class="results"><thead>{head}</thead><tbody>{body}</tbody></table></div>'
    return (
        f'<h2>Results</h2>{table}<p class="note">{note}</p><p class="note">{_text(_starts_statement(report.rows))}</p>'
    )


def _starts_statement(rows: Sequence[EvalRow]) -> str:
    """What the number of different starting states, and the training's overlap with them, allows to conclude."""
    if not rows:
        return "Nothing was evaluated."
    starts = max(row.distinct_starts for row in rows)
    episodes = max(row.episodes for row in rows)
    text = f"The {episodes} episodes of a row begin in {starts} distinct starting states"
    seen = [r.distinct_starts_seen_in_training for r in rows if r.distinct_starts_seen_in_training is not None]
    if not seen:
        return f"{text}; how many of them training saw is unknown."
    if max(seen) == 0:
        return f"{text}; training saw none of them."
    text += f"; training saw {max(seen)} of them."
    if 2 * max(seen) >= starts:
        text += f" A task with {starts} starting pictures that training saw tests fit, not generalisation."
    return text


class _StepWriter:
    """Writes steps with their frames as data URIs until the file's budget is spent: first pictures go, then steps."""

    def __init__(self, image_store: ImageSource | None) -> None:
        self._image_store = image_store
        self._left_bytes = _EPISODES_BUDGET_BYTES

    def write(self, index: int, step: Step) -> str | None:
        """The HTML of a step; None where there is no room for it."""
        full = "left out: the file is full"
        for shown in (self._picture(step), _tag("div", full, "frame none")):
            written = _step_html(index, step, shown)
            if (size := len(written.encode())) <= self._left_bytes:
                self._left_bytes -= size
                return written
        return None

    def _picture(self, step: Step) -> str:
        seen = picture(frame_hash(step), self._image_store)
        if seen is None:
            return _tag("div", "no picture", "frame none")
        uri = base64.b64encode(image_to_png(_shrink(seen, 320), compress_level=9)).decode()
        return f'<img class="frame" alt="what the policy saw" src="data:image/png;base64,{uri}">'


def _shrink(frame: np.ndarray, longest: int) -> np.ndarray:
    smaller = Image.fromarray(frame)
    smaller.thumbnail((longest, longest), Image.Resampling.LANCZOS)
    return np.asarray(smaller)


def _reward_html(step: Step) -> str:
    terms = [f"{name} {term:+.3g}" for name, term in step.reward.terms.items() if term]
    detail = _tag("small", " " + _text(", ".join(terms))) if len(step.reward.terms) > 1 and terms else ""
    return _text(f"{step.reward.total:+.3g}") + detail


def _step_html(index: int, step: Step, shown: str) -> str:
    by = _tag("span", _text(step.executed_by.value), f"by {step.executed_by.value}")
    action = f"<dt>action</dt><dd><b>{_text(action_name(step))}</b> {by}</dd>"
    items = f"{action}<dt>reward</dt><dd>{_reward_html(step)}</dd>"
    written = f"<details><summary>written text</summary><pre>{_text(step.completion.text)}</pre></details>"
    words = f'<p class="thought">{_text(thought(step))}</p><dl>{items}</dl>{written}'
    return f'<li><span class="number">step {index}</span>{shown}{words}</li>'


def _episode_html(trajectory: Trajectory, writer: _StepWriter) -> str:
    result = outcome(trajectory)
    head = f"episode {trajectory.episode}, seed {trajectory.seed}, return {trajectory.total_return:.3g}"
    first = trajectory.first_step
    shown = [writer.write(first + i, step) for i, step in enumerate(trajectory.steps[:_MAX_STEPS_SHOWN])]
    steps = [step for step in shown if step is not None]
    left_out = len(trajectory.steps) - len(steps)
    more = _tag("p", f"{left_out} further steps are not shown.", "note") if left_out else ""
    css = result if result in ("success", "failure") else "other"
    badge = _tag("span", _text(result), f"badge {css}")
    return f'<section class="episode"><h3>{_text(head)} {badge}</h3><ol class="steps">{"".join(steps)}</ol>{more}</section>'


def _provenance_html(report: EvalReport) -> str:
    state = {True: ", with uncommitted changes", False: "", None: ""}[report.dirty]
    entries = {
        "environment": " ".join([report.env, *(f"{k}={v}" for k, v in report.env_args.items())]),
        "seed": report.seed,
        "commit": report.commit + state,
        "duration": f"{report.duration_s:.0f} s",
        "created": report.created,
        "versions": ", ".join(f"{name} {v}" for name, v in report.versions.items()),
        "hardware": ", ".join(f"{k} {_listed(v)}" for k, v in report.hardware.items()),
    }
    rows = "".join(f"<dt>{name}</dt><dd>{_text(value)}</dd>" for name, value in entries.items() if value != "")
    return f'<dl class="provenance">{rows}</dl>'


def _listed(value: Any) -> str:
    return (" + ".join(map(str, value)) or "none") if isinstance(value, list | tuple) else str(value)


def _curves_html(run_dir: Path) -> str:
    stages: dict[str, list[Mapping[str, Any]]] = {}
    for record in read_metrics(run_dir / "metrics.jsonl"):
        stages.setdefault(str(record.get("stage", "run")), []).append(record)
    sections = []
    for index, (stage, records) in enumerate(stages.items()):
        is_curve = len({r.get("iteration") for r in records}) > 1
        if is_curve and (found := panels(records)):
            warnings = _warnings_html(records)
            sections.append(
                f"<h2>Curves: {_text(stage)}</h2><figure>{curves_svg(found, str(index))}</figure>{warnings}"
            )
    return "".join(sections)


def _warnings_html(records: Sequence[Mapping[str, Any]]) -> str:
    """What the trainer warned of, and when."""
    said = [f"Iteration {r.get('iteration')}: {warning}" for r in records for warning in r.get("warnings") or ()]
    return "".join(f'<p class="note warning">{_text(line)}</p>' for line in said)


def write_html_report(
    run_dir: str | Path,
    report: EvalReport,
    output: str | Path,
    trajectories: Sequence[Trajectory] = (),
    image_store: ImageSource | None = None,
) -> None:
    """Writes one HTML file below 5 MB that needs no network and no script: results, curves, episodes, provenance."""
    writer = _StepWriter(image_store)
    episodes = "".join(_episode_html(trajectory, writer) for trajectory in trajectories)
    page = Template(_PAGE.read_text(encoding="utf-8")).substitute(
        title=_text(report.env),
        subtitle=_text(f"run {Path(run_dir).name}, seed {report.seed}, {report.created}"),
        results=_results(report),
        curves=_curves_html(Path(run_dir)),
        episodes=f"<h2>Episodes</h2>{episodes}" if episodes else "",
        provenance=_provenance_html(report),
    )
    write_atomically(Path(output), lambda file: file.write(page.encode()))
