"""Episodes in words, and curves of a run, drawn with matplotlib. No global state: safe next to a user's own figures."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from eyas.errors import EyasError
from eyas.evaluation.statistics import thinned
from eyas.rollouts.encoding import image_hashes
from eyas.types import ImageSource, ParsedAction, Step, Trajectory

_MAX_POINTS = 400

# ----------------------------------------------------------------------------------------------- an episode in words


def frame_hash(step: Step) -> str | None:
    """The last picture of the prompt: what the step decided on."""
    return next(reversed(image_hashes(step.messages)), None)


def picture(image_hash: str | None, images: ImageSource | None) -> np.ndarray | None:
    """None where it is not there: a report or a film of what is there is better than none."""
    try:
        return None if image_hash is None or images is None else images.get(image_hash)
    except EyasError:
        return None


def action_name(step: Step) -> str:
    """How the model calls what was executed."""
    if step.action_name is not None:
        return step.action_name
    return "nothing" if step.action is None else str(step.action)


def thought(step: Step) -> str:
    if isinstance(step.parse, ParsedAction):
        return step.parse.thought
    return f"not parsed: {step.parse.reason.value}"


def outcome(trajectory: Trajectory) -> str:
    if trajectory.success is None:
        return trajectory.stop_reason.value.replace("_", " ")
    return "success" if trajectory.success else "failure"


# ----------------------------------------------------------------------------------------------- curves

_PANELS: dict[str, dict[str, str]] = {
    "Success": {
        "rollout/success_rate": "rollout, T=1",
        "rollout/strict_success_rate": "rollout, strict",
        "eval/strict_success_rate_greedy": "evaluation, greedy",
        "eval/strict_success_rate_sample": "evaluation, T=1",
    },
    "Return": {"rollout/return_mean": "rollout mean"},
    "Parse rate": {"rollout/parse_rate": "rollout", "rollout/recognition_accuracy": "recognition"},
    "Entropy, nats": {
        "rollout/entropy_nats": "a token",
        "rollout/thought_entropy_nats": "a token of thoughts",
        "rollout/action_entropy_nats": "an action",
    },
    "KL, nats": {
        "train/kl_k3_sampling_policy": "sampling to policy",
        "train/mismatch_kl_k3_sampling_policy": "before the first update",
    },
    "Clip share": {"train/clip_share": "tokens clipped"},
    "Thought diversity": {
        "rollout/thought_unique_share": "unique thoughts",
        "rollout/thought_self_bleu": "self-BLEU",
    },
    "Thought, action and input": {
        "rollout/thought_action_agreement": "action follows from the facts",
        "rollout/thought_own_prompt_share": "likeliest under its own prompt",
    },
    "Mutual information, nats": {"rollout/thought_mutual_information_nats": "of thought and input"},
    "Completion length, tokens": {"rollout/completion_length_tokens": "rollout mean"},
    "Episode length, steps": {"rollout/episode_length_steps": "rollout mean"},
    "Loss": {"train/loss": "training", "validation/loss": "held out"},
    "Held out": {"validation/exact_match": "exact match", "validation/recognition_accuracy": "recognition"},
    "Critic": {"train/explained_variance": "explained variance"},
}
_SHARES = {"Success", "Parse rate", "Clip share", "Thought diversity", "Thought, action and input", "Held out"}
_COLOURS = ("#2a78d6", "#e8833a", "#22a06b", "#b455c9")  # readable on white and on dark
_INK = "#808890"

Series = tuple[list[float], list[float]]


def _series(records: Sequence[Mapping[str, Any]], key: str) -> Series:
    points = [(r["iteration"], r[key]) for r in records if r.get(key) is not None and r.get("iteration") is not None]
    shown = thinned(points, _MAX_POINTS)
    return [float(x) for x, _ in shown], [float(y) for _, y in shown]


def panels(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, dict[str, Series]]]:
    """Title and non-empty series of each panel that the records have something for."""
    found = []
    for title, keys in _PANELS.items():
        series = {label: points for key, label in keys.items() if (points := _series(records, key))[0]}
        if series:
            found.append((title, series))
    return found


def _draw_panel(axes: Any, title: str, series: Mapping[str, Series]) -> None:
    for colour, (label, (x, y)) in zip(_COLOURS, series.items()):
        axes.plot(x, y, color=colour, linewidth=1.6, label=label, marker="o" if len(x) < 12 else "", markersize=3.5)
    dress(axes, title, title in _SHARES, _INK)
    axes.locator_params(axis="x", integer=True, nbins=6)
    axes.grid(color=_INK, alpha=0.25, linewidth=0.6)
    axes.spines["bottom"].set_color(_INK)
    if len(series) > 1:
        axes.legend(fontsize=7.5, frameon=False, labelcolor=_INK)


def dress(axes: Any, title: str, is_share: bool, ink: str) -> None:
    """Title, ticks and limits in the style of every figure."""
    if is_share:
        axes.set_ylim(-0.03, 1.03)
    axes.set_title(title, fontsize=10, color=ink, loc="left", fontweight="bold")
    axes.tick_params(colors=ink, labelsize=8, length=0)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def curves_svg(panels: Sequence[tuple[str, Mapping[str, Series]]], identity: str) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    # Text stays text and ids differ between figures: several SVGs share the ids of one page.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": identity, "svg.id": f"curves-{identity}"}):
        figure = Figure(figsize=(3.9 * columns, 2.4 * rows), layout="constrained")
        for index, (title, series) in enumerate(panels):
            _draw_panel(figure.add_subplot(rows, columns, index + 1), title, series)
        figure.supxlabel("iteration", fontsize=8, color=_INK)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]
