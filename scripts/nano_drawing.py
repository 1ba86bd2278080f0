"""Pictures for the pretraining of `nano`: text, cards, shapes and tiles on paper of many colours.

Drawn at twice the model's 96 pixels and reduced. Nothing here is shared with the pictures of the package's environments.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import cos, pi, sin
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIDE = 96
CANVAS = 2 * SIDE
SUITS = ("spades", "clubs", "hearts", "diamonds")
SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross", "ring")
INKS = {
    "black": (0, 0, 0),
    "red": (215, 25, 30),
    "blue": (35, 75, 215),
    "green": (20, 150, 50),
    "yellow": (245, 205, 20),
    "orange": (250, 130, 10),
    "purple": (135, 45, 175),
    "grey": (130, 130, 130),
    "brown": (120, 70, 30),
    "pink": (250, 130, 185),
    "cyan": (20, 190, 210),
    "white": (255, 255, 255),
}
DARK_PAPERS = ((0, 0, 0), (25, 25, 35), (53, 101, 77), (20, 70, 40), (30, 40, 90), (90, 30, 40))
LIGHT_PAPERS = ((245, 240, 225), (225, 235, 250), (200, 200, 200), (235, 250, 235), (250, 225, 215))
WHITE = (255, 255, 255)
Colour = tuple[int, int, int]
Box = tuple[float, float, float, float]  # left, top, right, bottom

_FONTS = Path(matplotlib.get_data_path()) / "fonts/ttf"
_FONT_NAMES = (
    "", "", "", "DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSansMono.ttf", "DejaVuSansMono-Bold.ttf",
    "DejaVuSerif.ttf", "DejaVuSerif-Bold.ttf",
)  # fmt: skip
_GLYPH_SIZE = 80


@lru_cache(maxsize=64)
def _font(name: str) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.truetype(_FONTS / name, _GLYPH_SIZE) if name else ImageFont.load_default(_GLYPH_SIZE)


@lru_cache(maxsize=8192)
def _glyphs(text: str, font_name: str, stroke: int) -> Image.Image:
    font = _font(font_name)
    left, top, right, bottom = (int(v) for v in font.getbbox(text, stroke_width=stroke))
    mask = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(mask).text((-left, -top), text, fill=255, font=font, stroke_width=stroke)
    return mask


def _is_dark(colour: Colour) -> bool:
    return 0.3 * colour[0] + 0.6 * colour[1] + 0.1 * colour[2] < 128


class Canvas:
    """A paper with an ink that shows on it. White three times in five, since that is what most games look like.

    A share `ease` of them is plain: white, with large bold print in the middle of its place.
    """

    def __init__(self, rng: np.random.Generator, ease: float = 0.0):
        self.rng = rng
        self.is_plain = ease > 0 and rng.random() < ease
        paper, draw = WHITE, 0.0 if self.is_plain else rng.random()
        if draw > 0.8:
            paper = DARK_PAPERS[rng.integers(len(DARK_PAPERS))]
        elif draw > 0.6:
            paper = LIGHT_PAPERS[rng.integers(len(LIGHT_PAPERS))]
        self.paper: Colour = paper
        self.image = Image.new("RGB", (CANVAS, CANVAS), paper)
        self.draw = ImageDraw.Draw(self.image)
        self.font = _FONT_NAMES[rng.integers(len(_FONT_NAMES))]
        self.stroke = int(rng.integers(0, 5))
        self.spread = 1.0 if rng.random() < 0.5 else 0.2  # share of the free room that a place is drawn from
        if self.is_plain:
            self.font, self.stroke, self.spread = _FONT_NAMES[0], 3, 0.1 if rng.random() < 0.5 else 0.03

    @property
    def ink(self) -> Colour:
        return WHITE if _is_dark(self.paper) else (0, 0, 0)

    def visible_inks(self) -> list[str]:
        """Names of the colours that can be told from the paper."""
        return [n for n, c in INKS.items() if sum(abs(a - b) for a, b in zip(c, self.paper, strict=True)) > 170]

    def picture(self) -> np.ndarray:
        """uint8 (96, 96, 3)."""
        return np.asarray(self.image.reduce(2))

    def text(self, text: str, box: Box, height: float, colour: Colour | None = None) -> None:
        """`text` somewhere in the box, as large as asked for or as fits."""
        mask = _glyphs(text, self.font, self.stroke)
        scale = min(height / 60, (box[2] - box[0]) / mask.width, (box[3] - box[1]) / mask.height)
        size = max(1, int(mask.width * scale)), max(1, int(mask.height * scale))
        mask = mask.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
        x = box[0] + self.place(box[2] - box[0] - size[0])
        y = box[1] + self.place(box[3] - box[1] - size[1])
        self.image.paste(colour or self.ink, (int(x), int(y)), mask)

    def place(self, room: float) -> float:
        """Where in free room something stands: anywhere, or near the middle."""
        return room * (0.5 + self.spread * (self.rng.random() - 0.5))

    def card(self, rank: str, suit: str, box: Box) -> None:
        """A card that fills the box: its rank, and the suit's sign below or beside it."""
        left, top, right, bottom = box
        width, height = right - left, bottom - top
        colour = INKS["red"] if suit in ("hearts", "diamonds") else INKS["black"]
        paper, self.paper = self.paper, WHITE
        self.draw.rounded_rectangle(box, radius=int(self.rng.integers(0, 10)), fill=WHITE, outline=(0, 0, 0), width=2)
        if height > width:
            middle = top + height * 0.62
            self.text(rank, (left + 4, top + 4, right - 4, middle), height * 0.52, colour)
            sign = (left + width / 2, (middle + bottom) / 2 - 2, min(width, height * 0.36) * 0.42)
        else:
            middle = left + width * 0.62
            self.text(rank, (left + 4, top + 4, middle, bottom - 4), height * 0.75, colour)
            sign = ((middle + right) / 2, top + height / 2, min(width * 0.36, height) * 0.42)
        self.suit(suit, *sign, colour)
        self.paper = paper

    def suit(self, suit: str, x: float, y: float, radius: float, colour: Colour) -> None:
        def disc(dx: float, dy: float, size: float) -> None:
            cx, cy, r = x + dx * radius, y + dy * radius, size * radius
            self.draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=colour)

        def polygon(*points: tuple[float, float]) -> None:
            self.draw.polygon([(x + dx * radius, y + dy * radius) for dx, dy in points], fill=colour)

        if suit == "diamonds":
            polygon((0, -1), (0.75, 0), (0, 1), (-0.75, 0))
        elif suit == "hearts":
            disc(-0.45, -0.4, 0.5)
            disc(0.45, -0.4, 0.5)
            polygon((-0.9, -0.15), (0.9, -0.15), (0, 1))
        else:
            polygon((-0.3, 1), (0.3, 1), (0, 0.1))
            for dx, dy in ((-0.45, 0.25), (0.45, 0.25), (0, -0.5)):
                if suit == "clubs" or dy > 0:
                    disc(dx, dy, 0.48)
            if suit == "spades":
                polygon((-0.88, 0.1), (0.88, 0.1), (0, -1))

    def shape(self, kind: str, x: float, y: float, radius: float, colour: Colour) -> None:
        around = (x - radius, y - radius, x + radius, y + radius)
        if kind == "circle":
            self.draw.ellipse(around, fill=colour)
        elif kind == "ring":
            self.draw.ellipse(around, outline=colour, width=max(2, int(radius / 3)))
        elif kind == "cross":
            arm = radius / 3
            self.draw.rectangle((x - arm, y - radius, x + arm, y + radius), fill=colour)
            self.draw.rectangle((x - radius, y - arm, x + radius, y + arm), fill=colour)
        else:
            self.draw.polygon([(x + dx * radius, y + dy * radius) for dx, dy in _corners(kind)], fill=colour)

    def tiles(self, kinds: Sequence[Sequence[str]], colours: dict[str, Colour], side: float) -> tuple[float, float]:
        """A square map of tiles of that side, somewhere on the paper; returns its left and top."""
        free = CANVAS - side * len(kinds)
        left, top = self.place(free), self.place(free)
        line = self.ink if self.rng.random() < 0.5 else None
        for row, line_of_kinds in enumerate(kinds):
            for column, kind in enumerate(line_of_kinds):
                x, y = left + column * side, top + row * side
                self.draw.rectangle((x, y, x + side - 1, y + side - 1), fill=colours[kind], outline=line)
        return left, top


@lru_cache(maxsize=8)
def _corners(kind: str) -> tuple[tuple[float, float], ...]:
    if kind == "star":
        return tuple((r * sin(i * pi / 5), -r * cos(i * pi / 5)) for i, r in enumerate((1.0, 0.42) * 5))
    return {
        "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
        "triangle": ((0, -1), (1, 0.85), (-1, 0.85)),
        "diamond": ((0, -1), (1, 0), (0, 1), (-1, 0)),
    }[kind]
