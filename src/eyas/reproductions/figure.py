"""The figure of a page: dots of every seed with their mean, or curves of every arm."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from eyas.evaluation.figures import dress
from eyas.files import write_atomically
from eyas.reproductions import Definition, Measure, Panel
from eyas.reproductions.results import Curve, Record, values_of

_COLOURS = ("#2a78d6", "#e8833a", "#22a06b", "#b455c9", "#c43d2b", "#808890", "#0f9bab", "#a58212")
_INK = "#50585f"


def write_figure(definition: Definition, records: Sequence[Record], path: Path) -> bool:
    """Writes a PNG with the panels that the records have something for; False where they have nothing."""
    from matplotlib.figure import Figure

    drawn = [(panel, series) for panel in definition.panels if (series := _series(definition, panel, records))]
    if not drawn:
        return False
    columns = min(3, len(drawn))
    rows = -(-len(drawn) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.1 * rows), layout="constrained", facecolor="white")
    for index, (panel, series) in enumerate(drawn):
        axes = figure.add_subplot(rows, columns, index + 1)
        (_draw_dots if panel.measures else _draw_curves)(axes, series)
        _dress(axes, panel, definition)
    write_atomically(path, lambda file: figure.savefig(file, format="png", dpi=130, metadata={"Software": None}))
    return True


def _arms(definition: Definition, panel: Panel) -> list[str]:
    return [arm.name for arm in definition.arms if not panel.arms or arm.name in panel.arms]


def _series(definition: Definition, panel: Panel, records: Sequence[Record]) -> dict[str, Any]:
    """By arm: values of each measure, or a curve of each seed. Arms with nothing to show are left out."""
    found: dict[str, Any] = {}
    for arm in _arms(definition, panel):
        own = [record for record in records if record.arm == arm]
        if panel.measures:
            values = {m: list(values_of(own, arm, definition.measure(m)).values()) for m in panel.measures}
            shown: Any = {m: v for m, v in values.items() if v}
        elif panel.metric:
            shown = [curve for r in own if (curve := r.curves.get(f"{panel.stage} {panel.metric}"))]
        else:
            shown = [curve for r in own if (curve := _against_compute(r, panel.evals))]
        if shown:
            found[arm] = shown
    return found


def _against_compute(record: Record, evals: Sequence[str]) -> Curve:
    values = {e: record.value(Measure(name="last", eval=e)) for e in evals if e in record.compute}
    return [(record.compute[e], value) for e, value in values.items() if value is not None]


def _draw_dots(axes: Any, series: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    measures = list(dict.fromkeys(m for by_measure in series.values() for m in by_measure))
    for i, (arm, by_measure) in enumerate(series.items()):
        offset = 0.6 * ((i + 0.5) / len(series) - 0.5)
        for measure, values in by_measure.items():
            x, colour = measures.index(measure) + offset, _COLOURS[i % len(_COLOURS)]
            axes.plot([x] * len(values), values, "o", color=colour, alpha=0.55, markersize=4.5, markeredgewidth=0)
            width = 0.25 / len(series)
            axes.plot([x - width, x + width], [fmean(values)] * 2, color=colour, linewidth=2.2)
        axes.plot([], [], "o", color=_COLOURS[i % len(_COLOURS)], markersize=4.5, label=arm)
    axes.set_xticks(range(len(measures)), [name.replace("_", " ") for name in measures])
    axes.set_xlim(-0.5, len(measures) - 0.5)


def _draw_curves(axes: Any, series: Mapping[str, Sequence[Curve]]) -> None:
    """Each seed thin, and the mean thick over the points that all of them have."""
    for i, (arm, curves) in enumerate(series.items()):
        colour = _COLOURS[i % len(_COLOURS)]
        for curve in curves:
            axes.plot(*zip(*curve, strict=True), color=colour, alpha=0.3, linewidth=0.9)
        by_x = [dict(curve) for curve in curves]
        shared = sorted(set.intersection(*map(set, by_x)))
        means = [fmean(c[x] for c in by_x) for x in shared]
        axes.plot(shared, means, color=colour, linewidth=2, marker="o" if len(shared) < 12 else "", ms=3.5, label=arm)


def _dress(axes: Any, panel: Panel, definition: Definition) -> None:
    is_share = (
        all(definition.measure(m).is_share for m in panel.measures)
        if panel.measures
        else Measure(name="shown", metric=panel.metric).is_share
    )
    dress(axes, panel.title, is_share, _INK)
    if not panel.measures:
        axes.set_xlabel("iteration" if panel.metric else "compute, passes over a step", fontsize=8, color=_INK)
    axes.grid(axis="y", color=_INK, alpha=0.2, linewidth=0.6)
    axes.legend(fontsize=7.5, frameon=False, labelcolor=_INK, loc="best")
