"""How a film shows one step: what was seen on the left, thought, action, reward and probabilities on the right."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 896, 512  # multiples of 16, as video encoders want them
_MARGIN, _TOP, _SIDE = 24, 72, 416  # the picture is a square of `_SIDE` pixels below the heading
_LEFT = _MARGIN + _SIDE + 24  # where the right column begins
_RIGHT = WIDTH - _MARGIN
_LINE = 22  # pixels from line to line of a thought
_THOUGHT_LINES, _MORE_THOUGHT_LINES = 8, 12  # with bars below, and without
_MOST_BARS = 8
_BOLD = "DejaVuSans-Bold"
_MOST_CHARACTERS = 1500  # more do not fit anywhere

_PAPER, _CARD, _INK, _SOFT, _RULE = "#fcfcfb", "#f0f2f3", "#1d2329", "#66707a", "#dfe3e6"
_BLUE, _AMBER = "#2a78d6", "#a86207"
_OUTCOMES = {"success": "#17804f", "failure": "#c43d2b"}


@dataclass(frozen=True)
class Bar:
    """The probability of one legal action."""

    name: str
    probability: float
    is_chosen: bool


@dataclass(frozen=True)
class Shot:
    """One step in words and numbers; its picture is looked up when it is drawn."""

    heading: str  # environment and episode
    step: int  # of the episode, counted from 1
    num_steps: int
    image_hash: str | None
    text: str  # what the prompt said last: shown where there is no picture
    thought: str
    action: str
    executed_by: str
    reward: float  # the environment's
    return_so_far: float
    bars: tuple[Bar, ...] = ()  # empty where no actions were scored
    outcome: str | None = None  # on the last step


def draw(shot: Shot, picture: np.ndarray | None) -> Image.Image:
    """An RGB picture of WIDTH x HEIGHT. `picture` is uint8 (H, W, 3)."""
    frame = Image.new("RGB", (WIDTH, HEIGHT), _PAPER)
    pen = ImageDraw.Draw(frame)
    count = f"step {shot.step} of {shot.num_steps}"
    _write(pen, (_RIGHT, 22), count, 16, _SOFT, anchor="ra")
    _write(pen, (_MARGIN, 22), shot.heading, 16, is_bold=True, width=_RIGHT - _MARGIN - 170)
    pen.rectangle((_MARGIN, 53, _RIGHT, 56), _RULE)
    pen.rectangle((_MARGIN, 53, _MARGIN + (_RIGHT - _MARGIN) * min(1, shot.step / max(1, shot.num_steps)), 56), _BLUE)
    _draw_seen(frame, pen, shot, picture)
    lines = _THOUGHT_LINES if shot.bars else _MORE_THOUGHT_LINES
    _label(pen, _LEFT, _TOP, "thought")
    for index, line in enumerate(wrap(shot.thought or "none", _font(16), _RIGHT - _LEFT, lines)):
        _write(pen, (_LEFT, _TOP + 18 + index * _LINE), line, 16, _INK if shot.thought else _SOFT)
    _draw_action(pen, shot, _TOP + 30 + lines * _LINE)
    _draw_bars(pen, shot.bars, _TOP + 328)
    return frame


def _draw_seen(frame: Image.Image, pen: ImageDraw.ImageDraw, shot: Shot, picture: np.ndarray | None) -> None:
    pen.rectangle((_MARGIN, _TOP, _MARGIN + _SIDE - 1, _TOP + _SIDE - 1), _CARD)
    if picture is None:
        font = _font(13, "DejaVuSansMono")  # a prompt may draw a map with characters
        columns = int((_SIDE - 32) / font.getlength("x"))
        text = (shot.text or "no picture")[:_MOST_CHARACTERS]
        lines = [line for part in text.splitlines() for line in textwrap.wrap(part, columns, drop_whitespace=False)]
        for index, line in enumerate(lines[:22]):
            pen.text((_MARGIN + 16, _TOP + 14 + 17 * index), _printable(line), _INK if shot.text else _SOFT, font)
        return
    seen = _scaled(Image.fromarray(picture))
    frame.paste(seen, (_MARGIN + (_SIDE - seen.width) // 2, _TOP + (_SIDE - seen.height) // 2))
    pen.rectangle((_MARGIN - 1, _TOP - 1, _MARGIN + _SIDE, _TOP + _SIDE), outline=_RULE)


def _scaled(picture: Image.Image) -> Image.Image:
    """As large as fits; small ones by a whole factor, so that their pixels stay squares."""
    factor = _SIDE / max(picture.size)
    if factor >= 2:
        return picture.resize((picture.width * int(factor), picture.height * int(factor)), Image.Resampling.NEAREST)
    size = max(1, round(picture.width * factor)), max(1, round(picture.height * factor))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _draw_action(pen: ImageDraw.ImageDraw, shot: Shot, top: int) -> None:
    _label(pen, _LEFT, top, "action" if shot.executed_by == "policy" else f"action, by {shot.executed_by}")
    colour = _AMBER if shot.executed_by == "fallback" else _INK
    _write(pen, (_LEFT, top + 16), shot.action, 22, colour, is_bold=True, width=_RIGHT - _LEFT)
    for left, name, number in ((_LEFT, "reward", shot.reward), (_LEFT + 120, "return so far", shot.return_so_far)):
        _label(pen, left, top + 54, name)
        _write(pen, (left, top + 70), f"{number:+.3g}" if name == "reward" else f"{number:.4g}", 20)
    if shot.outcome is not None:
        width = _font(16, _BOLD).getlength(shot.outcome) + 28
        colour = _OUTCOMES.get(shot.outcome, _SOFT)
        pen.rounded_rectangle((_RIGHT - width, top + 60, _RIGHT, top + 94), 17, colour)
        _write(pen, (_RIGHT - width / 2, top + 77), shot.outcome, 16, "white", is_bold=True, anchor="mm")


def _draw_bars(pen: ImageDraw.ImageDraw, bars: Sequence[Bar], top: int) -> None:
    """The most probable actions in the order in which they are given; two columns where they are more than four."""
    shown = sorted(sorted(range(len(bars)), key=lambda i: -bars[i].probability)[:_MOST_BARS])
    columns = 1 if len(shown) <= 4 else 2
    width = (_RIGHT - _LEFT - 24 * (columns - 1)) // columns
    if shown:
        more = f", {len(shown)} of {len(bars)}" if len(shown) < len(bars) else ""
        _label(pen, _LEFT, top - 8, f"probabilities{more}")
    for place, index in enumerate(shown):
        bar, name_width = bars[index], width * 2 // 5
        left, y = _LEFT + (place % columns) * (width + 24), top + 12 + 20 * (place // columns)
        begin, end = left + name_width + 8, left + width - 40
        _write(pen, (left, y), bar.name, 13, _INK if bar.is_chosen else _SOFT, bar.is_chosen, width=name_width)
        pen.rectangle((begin, y + 2, end, y + 12), _CARD)
        pen.rectangle(
            (begin, y + 2, begin + (end - begin) * bar.probability, y + 12), _BLUE if bar.is_chosen else _SOFT
        )
        _write(pen, (left + width, y), f"{100 * bar.probability:.0f} %", 13, _SOFT, anchor="ra")


# ----------------------------------------------------------------------------------------------- text


@lru_cache
def _font(size: int, name: str = "DejaVuSans") -> ImageFont.FreeTypeFont:
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts/ttf" / f"{name}.ttf"
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def _label(pen: ImageDraw.ImageDraw, left: float, top: float, text: str) -> None:
    _write(pen, (left, top), text, 12, _SOFT)


def _write(
    pen: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    size: int,
    colour: str = _INK,
    is_bold: bool = False,
    width: float | None = None,
    anchor: str = "la",
) -> None:
    """A line of text; with `width`, cut with an ellipsis where it is longer."""
    font = _font(size, _BOLD) if is_bold else _font(size)
    line = text if width is None else next(iter(wrap(text, font, width, 1)), "")
    pen.text(place, line, fill=colour, font=font, anchor=anchor)


def wrap(text: str, font: ImageFont.FreeTypeFont, width: float, most_lines: int) -> list[str]:
    """Lines of up to `width` pixels; what is beyond `most_lines` becomes an ellipsis. Longer words are broken."""
    words = _printable(text[:_MOST_CHARACTERS]).split()
    lines: list[str] = []
    while words and len(lines) < most_lines:
        if count := _fitting(words, " ", font, width):
            lines.append(" ".join(words[:count]))
            words = words[count:]
        else:
            count = max(1, _fitting(words[0], "", font, width))
            lines.append(words[0][:count])
            words[:1] = [words[0][count:]] if words[0][count:] else []
    if lines and (words or len(text) > _MOST_CHARACTERS):
        count = _fitting(lines[-1], "", font, width - font.getlength("…"))
        lines[-1] = lines[-1][:count].rstrip() + "…"
    return lines


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def _fitting(pieces: Sequence[str], glue: str, font: ImageFont.FreeTypeFont, width: float) -> int:
    """How many of the first pieces have room in a line, by halving."""
    low, high = 0, len(pieces)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if font.getlength(glue.join(pieces[:middle])) <= width else (low, middle - 1)
    return low
