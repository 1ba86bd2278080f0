"""One frame of a film: what is drawn where."""

from itertools import pairwise

import numpy as np
import pytest
from PIL import ImageFont

from eyas.evaluation.film_frame import HEIGHT, WIDTH, Bar, Shot, _font, draw, wrap

LEFT_OF_PICTURE, TOP_OF_PICTURE, SIDE = 24, 72, 416
PICTURE = np.s_[TOP_OF_PICTURE : TOP_OF_PICTURE + SIDE, LEFT_OF_PICTURE : LEFT_OF_PICTURE + SIDE]
THOUGHT = np.s_[90:266, 464:872]
BLUE, GREEN, RED, AMBER = (42, 120, 214), (23, 128, 79), (196, 61, 43), (168, 98, 7)


def shot(**changes: object) -> Shot:
    plain = {
        "heading": "eyas/Some-v0 · rl, iteration 3", "step": 2, "num_steps": 4, "image_hash": None, "text": "",
        "thought": "I go left.", "action": "left", "executed_by": "policy", "reward": 0.0, "return_so_far": 0.0,
    }  # fmt: skip
    return Shot(**(plain | changes))  # pyright: ignore[reportArgumentType]


def pixels(drawn: Shot, picture: np.ndarray | None = None) -> np.ndarray:
    return np.asarray(draw(drawn, picture))


def count(frame: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((frame == colour).all(axis=-1).sum())


@pytest.fixture
def font() -> ImageFont.FreeTypeFont:
    return _font(16)


# ----------------------------------------------------------------------------------------------- text


def test_lines_hold_every_word_and_none_is_too_wide(font: ImageFont.FreeTypeFont) -> None:
    text = " ".join(f"word{i}" for i in range(40))
    lines = wrap(text, font, 300, 20)
    assert " ".join(lines) == text
    assert all(font.getlength(line) <= 300 for line in lines)
    assert all(font.getlength(f"{a} {b.split()[0]}") > 300 for a, b in pairwise(lines))  # as few as possible


def test_what_is_beyond_the_last_line_becomes_an_ellipsis(font: ImageFont.FreeTypeFont) -> None:
    lines = wrap("one two three " * 50, font, 200, 3)
    assert len(lines) == 3
    assert lines[2].endswith("…") and not any("…" in line for line in lines[:2])
    assert font.getlength(lines[2]) <= 200
    assert wrap("fits", font, 200, 1) == ["fits"]


def test_a_word_without_end_is_broken(font: ImageFont.FreeTypeFont) -> None:
    lines = wrap("x" * 100, font, 100, 50)
    assert "".join(lines) == "x" * 100
    assert all(font.getlength(line) <= 100 for line in lines)
    assert wrap("WWW", font, 1, 5) == ["W", "W", "W"]  # the wrong variant never ends


def test_a_huge_text_is_cut_before_it_is_measured(font: ImageFont.FreeTypeFont) -> None:
    lines = wrap("a b\n" * 10**7, font, 400, 12)
    assert len(lines) == 12
    assert lines[-1].endswith("…")


def test_line_breaks_and_control_characters_are_spaces(font: ImageFont.FreeTypeFont) -> None:
    assert wrap("a\nb\tc\x00d\x1b[31m", font, 400, 3) == ["a b c d [31m"]
    assert wrap(" \n ", font, 400, 3) == []


# ----------------------------------------------------------------------------------------------- the frame


def test_a_frame_has_the_size_that_encoders_want() -> None:
    assert pixels(shot()).shape == (HEIGHT, WIDTH, 3) == (512, 896, 3)
    assert WIDTH % 16 == HEIGHT % 16 == 0


def test_the_thought_is_drawn_and_only_there() -> None:
    one, other = pixels(shot(thought="I go left.")), pixels(shot(thought="I go right, and then on " * 5))
    differs = (one != other).any(axis=-1)
    assert differs[THOUGHT].sum() > 500
    differs[THOUGHT] = False
    assert not differs.any()


def test_action_reward_step_and_heading_are_drawn() -> None:
    plain = pixels(shot())
    for changes in ({"action": "right"}, {"reward": 1.0}, {"return_so_far": 2.5}, {"step": 3}, {"heading": "other"}):
        assert (pixels(shot(**changes)) != plain).any(), changes


def test_a_long_text_stays_in_its_place() -> None:
    """Nothing reaches the margins, whatever is written: the wrong variant runs out of the frame."""
    long = "Wörter und ★ " * 1000
    frame = pixels(shot(heading=long, thought=long, action=long, text=long, bars=(Bar(long, 0.5, True),) * 9))
    paper = frame[0, 0]
    assert (frame[:, :20] == paper).all()
    assert (frame[:, 876:] == paper).all()
    assert (frame[490:] == paper).all()


def test_a_small_picture_is_scaled_by_a_whole_factor() -> None:
    picture = np.zeros((2, 2, 3), np.uint8)
    picture[0, 1], picture[1, 0] = (255, 0, 0), (0, 0, 255)
    seen = pixels(shot(), picture)[PICTURE]
    assert count(seen, (255, 0, 0)) == count(seen, (0, 0, 255)) == (SIDE // 2) ** 2
    assert tuple(seen[10, SIDE - 10]) == (255, 0, 0)
    assert tuple(seen[SIDE - 10, 10]) == (0, 0, 255)


@pytest.mark.parametrize("shape", [(1, 3000), (3000, 1), (700, 900), (1, 1)])
def test_any_shape_of_picture_fits(shape: tuple[int, int]) -> None:
    frame = pixels(shot(), np.full((*shape, 3), (250, 0, 250), np.uint8))
    drawn = (frame == (250, 0, 250)).all(axis=-1)
    assert drawn.any()
    drawn[PICTURE] = False
    assert not drawn.any()


def test_without_a_picture_the_prompt_s_words_stand_in_its_place() -> None:
    said, silent = pixels(shot(text="The door is closed."))[PICTURE], pixels(shot())[PICTURE]
    assert (said != silent).any()
    assert count(said, (29, 35, 41)) > 20


def test_a_map_that_the_prompt_draws_keeps_its_columns() -> None:
    """A mark behind spaces stands as far to the right as there are spaces: the wrong variant moves it to the left."""
    near, far = (
        pixels(shot(text=f"####\n#{' ' * n}@"))[PICTURE] != pixels(shot(text="####\n#"))[PICTURE] for n in (2, 9)
    )
    left = [int(np.flatnonzero(differs.any(axis=(0, 2)))[0]) for differs in (near, far)]
    assert left[1] - left[0] == pytest.approx(7 * 7.83, abs=2)


def test_bars_are_as_long_as_their_probabilities() -> None:
    area = np.s_[400:490, 464:872]
    half, full = (pixels(shot(bars=(Bar("a", p, True),)))[area] for p in (0.5, 1.0))
    assert count(half, BLUE) / count(full, BLUE) == pytest.approx(0.5, abs=0.02)
    assert count(pixels(shot())[area], BLUE) == 0


def test_of_many_actions_the_most_probable_eight_are_shown_in_order() -> None:
    area = np.s_[400:490, 464:872]
    bars = tuple(Bar("", (i + 1) / 20, False) for i in range(12))
    many, most = (pixels(shot(bars=b))[area] for b in (bars, bars[4:]))
    assert (many[16:] == most[16:]).all()  # but for the label, which says how many there are
    assert (many[:16] != most[:16]).any()


def test_only_the_last_step_says_how_it_ended() -> None:
    assert count(pixels(shot()), GREEN) == count(pixels(shot()), RED) == 0
    assert count(pixels(shot(outcome="success")), GREEN) > 1000
    assert count(pixels(shot(outcome="failure")), RED) > 1000
    assert count(pixels(shot(outcome="context overflow")), (102, 112, 122)) > 1000


def test_an_action_that_the_policy_did_not_write_stands_out() -> None:
    assert count(pixels(shot(executed_by="fallback")), AMBER) > 50
    assert count(pixels(shot()), AMBER) == 0
