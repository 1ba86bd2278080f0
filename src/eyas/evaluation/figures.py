"""Curves of a run and pictures of episodes, drawn with matplotlib. No global state: safe next to a user's own figures."""

import io
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eyas.errors import DatasetError
from eyas.files import write_atomically
from eyas.types import ExecutedBy, ImagePart, ImageStore, ParsedAction, Step, Trajectory

_MAX_POINTS = 400

# ----------------------------------------------------------------------------------------------- an episode in words


def _frame_hash(step: Step) -> str | None:
    """The last picture of the prompt: what the step decided on."""
    hashes = [p.image_hash for m in step.messages for p in m.parts if isinstance(p, ImagePart)]
    return hashes[-1] if hashes else None


def frame(step: Step, image_store: ImageStore | None) -> np.ndarray | None:
    image_hash = _frame_hash(step)
    try:
        return image_store.get(image_hash) if image_store is not None and image_hash is not None else None
    except DatasetError:  # a report of what is there is better than none
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

_PANELS: tuple[tuple[str, dict[str, str]], ...] = (
    (
        "Success",
        {
            "rollout/success_rate": "rollout, T=1",
            "rollout/strict_success_rate": "rollout, strict",
            "eval/strict_success_rate_greedy": "evaluation, greedy",
            "eval/strict_success_rate_sample": "evaluation, T=1",
        },
    ),
    ("Return", {"rollout/return_mean": "rollout mean"}),
    ("Parse rate", {"rollout/parse_rate": "rollout", "rollout/recognition_accuracy": "recognition"}),
    (
        "Entropy, nats",
        {
            "rollout/entropy_nats": "a token",
            "rollout/thought_entropy_nats": "a token of thoughts",
            "rollout/action_entropy_nats": "an action",
        },
    ),
    (
        "KL, nats",
        {
            "train/kl_k3_sampling_policy": "sampling to policy",
            "train/mismatch_kl_k3_sampling_policy": "before the first update",
        },
    ),
    ("Clip share", {"train/clip_share": "tokens clipped"}),
    (
        "Thought diversity",
        {"rollout/thought_unique_share": "unique thoughts", "rollout/thought_self_bleu": "self-BLEU"},
    ),
    (
        "Thought, action and input",
        {
            "rollout/thought_action_agreement": "action follows from the facts",
            "rollout/thought_own_prompt_share": "likeliest under its own prompt",
        },
    ),
    ("Mutual information, nats", {"rollout/thought_mutual_information_nats": "of thought and input"}),
    ("Completion length, tokens", {"rollout/completion_length_tokens": "rollout mean"}),
    ("Episode length, steps", {"rollout/episode_length_steps": "rollout mean"}),
    ("Loss", {"train/loss": "training", "validation/loss": "held out"}),
    ("Held out", {"validation/exact_match": "exact match", "validation/recognition_accuracy": "recognition"}),
    ("Critic", {"train/explained_variance": "explained variance"}),
)
_SHARES = {"Success", "Parse rate", "Clip share", "Thought diversity", "Thought, action and input", "Held out"}
_COLOURS = ("#2a78d6", "#e8833a", "#22a06b", "#b455c9")  # readable on white and on dark
_INK = "#808890"

Series = tuple[list[float], list[float]]


def _series(records: Sequence[Mapping[str, Any]], key: str) -> Series:
    points = [(r["iteration"], r[key]) for r in records if r.get(key) is not None and r.get("iteration") is not None]
    stride = -(-len(points) // _MAX_POINTS) or 1
    thinned = points[::stride]
    return [float(x) for x, _ in thinned], [float(y) for _, y in thinned]


def panels(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, dict[str, Series]]]:
    """Title and non-empty series of each panel that the records have something for."""
    found = []
    for title, keys in _PANELS:
        series = {label: points for key, label in keys.items() if (points := _series(records, key))[0]}
        if series:
            found.append((title, series))
    return found


def _draw_panel(axes: Any, title: str, series: Mapping[str, Series]) -> None:
    for colour, (label, (x, y)) in zip(_COLOURS, series.items()):
        axes.plot(x, y, color=colour, linewidth=1.6, label=label, marker="o" if len(x) < 12 else "", markersize=3.5)
    if title in _SHARES:
        axes.set_ylim(-0.03, 1.03)
    axes.set_title(title, fontsize=10, color=_INK, loc="left", fontweight="bold")
    axes.tick_params(colors=_INK, labelsize=8, length=0)
    axes.locator_params(axis="x", integer=True, nbins=6)
    axes.grid(color=_INK, alpha=0.25, linewidth=0.6)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(_INK)
    if len(series) > 1:
        axes.legend(fontsize=7.5, frameon=False, labelcolor=_INK)


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


# ----------------------------------------------------------------------------------------------- an episode as a picture


def _shown_steps(count: int, max_steps: int) -> list[int]:
    """The first and the last step, and as many as fit between them at even distances."""
    return np.unique(np.linspace(0, count - 1, min(count, max_steps)).round().astype(int)).tolist()


def _caption(step: Step) -> str:
    lines = textwrap.wrap(thought(step), 35)
    return "\n".join([*lines[:5], "…"] if len(lines) > 5 else lines)


def _draw_step(axes: Any, index: int, step: Step, image: np.ndarray | None) -> None:
    from matplotlib.transforms import ScaledTranslation

    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#d5d9dc")
    if image is not None:
        axes.imshow(image, interpolation="nearest" if max(image.shape) < 200 else "antialiased", aspect="auto")
    axes.set_title(f"step {index}", fontsize=8, color=_INK, loc="left", pad=4)

    def write(text: str, x: float, below_inches: float, **style: Any) -> None:
        below = axes.transAxes + ScaledTranslation(0, -below_inches, axes.figure.dpi_scale_trans)
        shown = "".join(c for c in text if c.isprintable() or c == "\n")
        # What a model wrote is no mathematics: a "$" in it would fail to parse.
        axes.text(x, 0, shown, transform=below, va="top", parse_math=False, fontsize=8.5, **style)

    is_fallback = step.executed_by is ExecutedBy.FALLBACK
    name = f"{action_name(step)} (fallback)" if is_fallback else action_name(step)
    write(name, 0, 0.1, fontweight="bold", color="#b3640a" if is_fallback else "#1d2329")
    write(f"reward {step.reward.total:+.2g}", 1, 0.1, ha="right", color=_INK)
    write(_caption(step), 0, 0.34, color="#454d54", linespacing=1.35)


def write_trajectory_figure(
    trajectory: Trajectory, image_store: ImageStore, path: str | Path, max_steps: int = 8, columns: int = 4
) -> None:
    """Writes a PNG of an episode: each shown step's frame with action, reward and thought under it.

    A longer episode shows `max_steps` of its steps at even distances. Raises `DatasetError` for one without steps.
    """
    from matplotlib.figure import Figure

    if not trajectory.steps:
        raise DatasetError(f"episode {trajectory.episode} has no steps to draw")
    shown = _shown_steps(len(trajectory.steps), max_steps)
    images = [frame(trajectory.steps[index], image_store) for index in shown]
    columns = min(columns, len(shown))
    rows = -(-len(shown) // columns)
    # A fixed grid in inches: a caption takes the same room under every frame.
    cell, gap, caption, head, margin = 2.4, 0.25, 1.6, 0.65, 0.2
    shapes = [image.shape for image in images if image is not None]
    tall = cell * min(1.5, shapes[0][0] / shapes[0][1]) if shapes else cell
    width = 2 * margin + columns * cell + (columns - 1) * gap
    height = head + rows * (tall + caption)
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
    for place, (index, image) in enumerate(zip(shown, images)):
        row, column = divmod(place, columns)
        left, top = margin + column * (cell + gap), height - head - row * (tall + caption)
        axes = figure.add_axes((left / width, (top - tall) / height, cell / width, tall / height))
        _draw_step(axes, trajectory.first_step + index, trajectory.steps[index], image)
    title = f"{outcome(trajectory)}, return {trajectory.total_return:.3g}, {len(trajectory.steps)} steps"
    figure.text(margin / width, 1 - margin / height, title, fontsize=10, fontweight="bold", va="top")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a model may write in any script: a box stands for it
        write_atomically(Path(path), lambda file: figure.savefig(file, format="png"))
