"""The drawing: margins, size of ranks, formulas of every length."""

from itertools import product

import numpy as np
import pytest

from eyas.envs import rendering


def ink_box(picture: np.ndarray, background: str = "white") -> tuple[int, int, int, int]:
    """Top, bottom, left, right of what is not background."""
    rows, columns = np.where((picture != rendering.BACKGROUNDS[background]).any(axis=-1))
    return rows.min(), rows.max(), columns.min(), columns.max()


@pytest.mark.parametrize(
    "formula", ["", "2", "10*2__", "(10-4)*(3+1)", "(((((10*10_____+10/10", "(((((((((((((((((((((", "1" * 25]
)
@pytest.mark.parametrize("num_cards", [2, 4])
@pytest.mark.parametrize("background", ["white", "green"])
def test_everything_stays_inside_the_margin(formula, num_cards, background):
    cards = [(10, "hearts"), (12, "spades"), (1, "clubs"), (13, "diamonds")][:num_cards]
    top, bottom, left, right = ink_box(rendering.draw_formula_table(cards, formula, background), background)
    low, high = rendering.MARGIN, rendering.SIZE - rendering.MARGIN
    assert low <= top and bottom < high and low <= left and right < high


@pytest.mark.parametrize(("width", "height"), [(130, 180), (130, 96), (84, 130)])
def test_ranks_are_at_least_sixty_pixels_high(width, height):
    for rank in range(1, 14):
        card = rendering.card_image(rank, "hearts", width, height)
        inner = card[3:-3, 3:-3] if height > width else card[3:-3, 3 : int(width * 0.65)]
        rows = np.where((inner < 128).any(axis=(1, 2)))[0]
        first = np.split(rows, np.where(np.diff(rows) > 1)[0] + 1)[0]
        assert len(first) >= 60


def test_all_cards_look_different_also_when_small():
    for width, height in ((130, 180), (130, 96), (84, 130), (61, 61), (26, 38)):
        images = {
            rendering.card_image(r, s, width, height).tobytes() for r, s in product(range(1, 14), rendering.SUITS)
        }
        assert len(images) == 52


def test_shift_fills_with_the_background():
    picture = rendering.blank()
    picture[100:110, 100:110] = 0
    moved = rendering.shift(picture, (5, -7), "green")
    assert (moved[93:103, 105:115] == 0).all()
    assert (moved[-7:] == rendering.BACKGROUNDS["green"]).all()
    assert (moved[:, :5] == rendering.BACKGROUNDS["green"]).all()
