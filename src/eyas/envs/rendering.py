"""Pictures of the games, drawn here: nothing is read from disk but Pillow's own font.

White paper is the default background, so that one constant normalisation (mean 1) makes it zero. Ranks and numbers are at
least 60 of 300 pixels high wherever they fit, since small models see the picture at 96x96.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SIZE = 300
MARGIN = 16  # kept free on every side: the drawing can be shifted so far without being cut
INNER = SIZE - 2 * MARGIN
BACKGROUNDS = {"white": (255, 255, 255), "green": (53, 101, 77)}
BLACK, RED, WHITE, BLUE = (0, 0, 0), (200, 0, 30), (255, 255, 255), (40, 70, 160)
SUITS = ("spades", "clubs", "hearts", "diamonds")
SUIT_COLOURS = {"spades": BLACK, "clubs": BLACK, "hearts": RED, "diamonds": RED}
SUIT_SETS = {"all": SUITS, "black": SUITS[:2], "red": SUITS[2:]}
RANKS = ("", "A", *map(str, range(2, 11)), "J", "Q", "K")
Card = tuple[int, str]  # rank 1..13, suit

_OVERSAMPLE = 4
_FONT_SIZE = 96  # glyphs are drawn at this size and scaled to the height that is asked for
_FORMULA_HEIGHTS = (44, 36, 28, 22)


# ----------------------------------------------------------------------------------------------- glyphs


@lru_cache(maxsize=512)
def text_mask(text: str, height: int, max_width: int) -> Image.Image:
    """`text` in a bold line of `height` pixels from baseline to the top of a digit, squeezed to `max_width`."""
    font = ImageFont.load_default(size=_FONT_SIZE)
    _, top, _, bottom = font.getbbox("0123456789", stroke_width=3)
    left, _, right, _ = font.getbbox(text, stroke_width=3)
    descent = (bottom - top) // 4
    line = Image.new("L", (int(right - left), int(bottom - top + descent)))
    ImageDraw.Draw(line).text((-left, -top), text, fill=255, font=font, stroke_width=3)
    scale = height / (bottom - top)
    width = min(max_width, round(line.width * scale))
    return line.resize((max(1, width), round(line.height * scale)), Image.Resampling.LANCZOS)


def _disc(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, size: int) -> None:
    draw.ellipse([(x - radius) * size, (y - radius) * size, (x + radius) * size, (y + radius) * size], fill=255)


def _polygon(draw: ImageDraw.ImageDraw, points: Sequence[tuple[float, float]], size: int) -> None:
    draw.polygon([(x * size, y * size) for x, y in points], fill=255)


def _draw_pip(draw: ImageDraw.ImageDraw, suit: str, size: int) -> None:
    stem = ((0.5, 0.35), (0.68, 1.0), (0.32, 1.0))
    if suit == "diamonds":
        _polygon(draw, ((0.5, 0.0), (0.88, 0.5), (0.5, 1.0), (0.12, 0.5)), size)
    elif suit == "hearts":
        _disc(draw, 0.27, 0.29, 0.26, size)
        _disc(draw, 0.73, 0.29, 0.26, size)
        _polygon(draw, ((0.06, 0.43), (0.94, 0.43), (0.5, 1.0)), size)
    elif suit == "spades":
        _disc(draw, 0.27, 0.58, 0.25, size)
        _disc(draw, 0.73, 0.58, 0.25, size)
        _polygon(draw, ((0.07, 0.45), (0.93, 0.45), (0.5, 0.0)), size)
        _polygon(draw, stem, size)
    else:
        for x, y in ((0.5, 0.25), (0.25, 0.6), (0.75, 0.6)):
            _disc(draw, x, y, 0.24, size)
        _polygon(draw, stem, size)


@lru_cache(maxsize=64)
def pip_mask(suit: str, size: int) -> Image.Image:
    """A suit's sign, `size` pixels square."""
    large = Image.new("L", (size * _OVERSAMPLE, size * _OVERSAMPLE))
    _draw_pip(ImageDraw.Draw(large), suit, size * _OVERSAMPLE)
    return large.resize((size, size), Image.Resampling.LANCZOS)


# ----------------------------------------------------------------------------------------------- cards


def _empty_card(width: int, height: int) -> Image.Image:
    image = Image.new("RGB", (width, height), WHITE)
    ImageDraw.Draw(image).rectangle([0, 0, width - 1, height - 1], outline=BLACK, width=2)
    return image


@lru_cache(maxsize=1024)
def card_image(rank: int, suit: str, width: int, height: int) -> np.ndarray:
    """A card with its rank, large, and its suit: below the rank on an upright card, else right of it."""
    image, colour = _empty_card(width, height), SUIT_COLOURS[suit]
    if height > width:
        glyph_height, pip = int(height * 0.5), min(int(height * 0.32), width - 10)
        rank_centre, pip_centre = (width // 2, int(height * 0.31)), (width // 2, int(height * 0.79))
        glyph_width = width - 10
    else:
        glyph_height, pip = int(height * 0.72), int(width * 0.26)
        glyph_width = width - pip - 16
        rank_centre, pip_centre = (6 + glyph_width // 2, height // 2), (width - pip // 2 - 6, height // 2)
    mask = text_mask(RANKS[rank], glyph_height, glyph_width)
    image.paste(colour, (rank_centre[0] - mask.width // 2, rank_centre[1] - glyph_height // 2), mask)
    image.paste(colour, (pip_centre[0] - pip // 2, pip_centre[1] - pip // 2), pip_mask(suit, pip))
    return np.asarray(image)


@lru_cache(maxsize=64)
def card_back(width: int, height: int) -> np.ndarray:
    """A card that lies face down."""
    image = _empty_card(width, height)
    draw = ImageDraw.Draw(image)
    for x in range(-height, width, 12):
        draw.line([(x, height), (x + height, 0)], fill=BLUE, width=3)
    draw.rectangle([0, 0, width - 1, height - 1], outline=BLACK, width=2)
    return np.asarray(image)


# ----------------------------------------------------------------------------------------------- canvas


@lru_cache(maxsize=2)
def _paper(background: str) -> np.ndarray:
    paper = np.empty((SIZE, SIZE, 3), np.uint8)
    paper[:] = BACKGROUNDS[background]
    return paper


def blank(background: str = "white") -> np.ndarray:
    """An empty canvas, uint8 (300, 300, 3)."""
    return _paper(background).copy()


def shift(picture: np.ndarray, by: tuple[int, ...], background: str = "white") -> np.ndarray:
    """The picture moved by (x, y) pixels; what becomes free shows the background."""
    x, y = by
    if not x and not y:
        return picture
    moved = blank(background)
    moved[max(y, 0) : SIZE + min(y, 0), max(x, 0) : SIZE + min(x, 0)] = picture[
        max(-y, 0) : SIZE + min(-y, 0), max(-x, 0) : SIZE + min(-x, 0)
    ]
    return moved


def _paste(canvas: np.ndarray, patch: np.ndarray, x: int, y: int) -> None:
    canvas[y : y + patch.shape[0], x : x + patch.shape[1]] = patch


@lru_cache(maxsize=256)
def text_patch(text: str, height: int, background: str, max_width: int = INNER) -> np.ndarray:
    """One line of text on the background."""
    mask = text_mask(text, height, max_width)
    image = Image.new("RGB", mask.size, BACKGROUNDS[background])
    image.paste(BLACK if background == "white" else WHITE, (0, 0), mask)
    return np.asarray(image)


# ----------------------------------------------------------------------------------------------- games


def draw_number_line(target: int, current: int, background: str = "white") -> np.ndarray:
    """The target above and the current number below, each 80 pixels high beside its label."""
    canvas = blank(background)
    for label, number, y in (("Target:", target, 42), ("Current:", current, 178)):
        _paste(canvas, text_patch(label, 26, background), MARGIN, y + 40)
        patch = text_patch(str(number), 80, background, 110)
        _paste(canvas, patch, SIZE - MARGIN - 110 + (110 - patch.shape[1]) // 2, y)
    return canvas


def draw_formula(canvas: np.ndarray, formula: str, top: int, background: str) -> None:
    """Writes the formula as large as it fits: on one line, or on two where it would become too small."""
    height = next((h for h in _FORMULA_HEIGHTS if text_mask(formula, h, 10_000).width <= INNER), None)
    if height:
        _paste(canvas, text_patch(formula, height, background), MARGIN, top)
        return
    half = (len(formula) + 1) // 2
    for i, line in enumerate((formula[:half], formula[half:])):
        _paste(canvas, text_patch(line, 20, background), MARGIN, top + 29 * i)


def _draw_grid(canvas: np.ndarray, patches: Sequence[np.ndarray], columns: int, x0: int, y0: int, gap: int) -> None:
    for i, patch in enumerate(patches):
        height, width = patch.shape[:2]
        _paste(canvas, patch, x0 + i % columns * (width + gap), y0 + i // columns * (height + gap))


def draw_formula_table(cards: Sequence[Card], formula: str, background: str = "white") -> np.ndarray:
    """Two upright cards in a row, or four lying ones as 2x2, and the formula below them."""
    canvas = blank(background)
    width, height = (130, 180) if len(cards) == 2 else (130, 96)
    _draw_grid(canvas, [card_image(*c, width, height) for c in cards], 2, MARGIN, MARGIN, 8)
    draw_formula(canvas, formula, 226, background)
    return canvas


def _hand_grid(n: int) -> tuple[int, int, int]:
    """Columns, card width, card height for a hand of n cards in 268 x 130 pixels."""
    if n <= 3:
        return 3, 84, 130
    return (4, 61, 61) if n <= 8 else (8, 26, 38)


def _draw_hand(canvas: np.ndarray, cards: Sequence[Card], y: int, with_back: bool) -> None:
    columns, width, height = _hand_grid(len(cards) + with_back)
    patches = [card_image(*c, width, height) for c in cards] + [card_back(width, height)] * with_back
    _draw_grid(canvas, patches, columns, MARGIN, y, 8)


def draw_blackjack(dealer: Sequence[Card], player: Sequence[Card], is_over: bool, background: str) -> np.ndarray:
    """The dealer's cards above (the first one and a back until the end), the player's below; up to 24 cards a hand."""
    canvas = blank(background)
    _draw_hand(canvas, dealer if is_over else dealer[:1], MARGIN, not is_over)
    _draw_hand(canvas, player, MARGIN + 138, False)
    return canvas
