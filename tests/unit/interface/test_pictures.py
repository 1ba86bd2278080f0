"""Pictures: every layout and type becomes uint8 RGB, and scaling is exact."""

import numpy as np
import pytest
from gymnasium import spaces

from eyas.interface.pictures import MAX_PICTURE_SIDE, PictureReader, picture_reader, scaled


def pixels(*colours):
    """A picture of 20 x 30 pixels in one colour, or grey level, each."""
    return [np.full((20, 30, 3), colour, np.uint8) for colour in colours]


def reader_of(space) -> PictureReader:
    reader = picture_reader(space)
    assert reader is not None
    return reader


COLOUR = np.array([10, 20, 30], np.uint8)


@pytest.mark.parametrize(
    ("space", "observation", "expected"),
    [
        (spaces.Box(0, 255, (20, 30), np.uint8), np.full((20, 30), 9, np.uint8), pixels(9)),
        (spaces.Box(0, 255, (20, 30, 1), np.uint8), np.full((20, 30, 1), 9, np.uint8), pixels(9)),
        (spaces.Box(0, 255, (1, 20, 30), np.uint8), np.full((1, 20, 30), 9, np.uint8), pixels(9)),
        (spaces.Box(0, 255, (3, 20, 30), np.uint8), np.moveaxis(pixels(COLOUR)[0], 2, 0), pixels(COLOUR)),
        (spaces.Box(0, 1, (20, 30, 3)), pixels(COLOUR)[0] / np.float32(255), pixels(COLOUR)),
        (spaces.Box(0, 255, (20, 30, 3)), pixels(COLOUR)[0].astype(np.float32), pixels(COLOUR)),
        (spaces.Box(-1, 1, (20, 30)), np.full((20, 30), -0.2), pixels(102)),
        (spaces.Box(0, 1, (20, 30)), np.full((20, 30), 1.5), pixels(255)),
        (spaces.Box(0, 1, (20, 30)), np.full((20, 30), -np.inf), pixels(0)),
        # A board of few values would be black if they were taken as grey levels; colours are what they are.
        (spaces.Box(0, 2, (20, 30), np.uint8), np.full((20, 30), 1, np.uint8), pixels(128)),
        (spaces.Box(0, 2, (20, 30, 3), np.uint8), pixels(1)[0], pixels(1)),
        (spaces.Box(0, 255, (2, 20, 30, 3), np.uint8), np.stack(pixels(5, 6)), pixels(5, 6)),
        (
            spaces.Box(0, 255, (2, 3, 20, 30), np.uint8),
            np.moveaxis(np.stack(pixels(5, COLOUR)), 3, 1),
            pixels(5, COLOUR),
        ),
        (spaces.Box(0, 255, (4, 20, 30), np.uint8), np.stack(pixels(1, 2, 3, 4))[..., 0], pixels(1, 2, 3, 4)),
    ],
)
def test_every_layout_and_type_of_picture_becomes_uint8_rgb(space, observation, expected):
    given = reader_of(space).read(observation)
    assert len(given) == len(expected)
    for picture, wanted in zip(given, expected):
        assert picture.dtype == np.uint8 and np.array_equal(picture, wanted)


def test_alpha_is_blended_on_white():
    space = spaces.Box(0, 255, (16, 16, 4), np.uint8)
    observation = np.zeros((16, 16, 4), np.uint8)
    observation[0, 0] = (10, 20, 30, 255)
    observation[0, 1] = (100, 0, 255, 51)  # a fifth of it: 20 + 204, 0 + 204, 51 + 204
    observation[0, 2] = (10, 0, 0, 100)  # 158.9, 155, 155
    (picture,) = reader_of(space).read(observation)
    assert picture[0, :4].tolist() == [[10, 20, 30], [224, 204, 255], [159, 155, 155], [255, 255, 255]]


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0, 255, (7, 7, 3), np.uint8),
        spaces.Box(0, 255, (15, 30, 3), np.uint8),
        spaces.Box(0, 255, (30, 15), np.uint8),
        spaces.Box(0, 255, (20, 30, 2), np.uint8),
        spaces.Box(0, 255, (17, 20, 30), np.uint8),
        spaces.Box(0, 255, (20, 30, 3), np.int32),
        spaces.Box(-np.inf, np.inf, (20, 30, 3)),
        spaces.Box(0, 0, (20, 30, 3)),
    ],
)
def test_what_is_no_picture_is_not_taken_for_one(space):
    assert picture_reader(space) is None


SMALL = np.array([[[0, 0, 0], [10, 20, 30]], [[20, 40, 60], [50, 60, 70]]], np.uint8)


def test_a_small_picture_is_enlarged_by_the_largest_whole_factor_that_fits():
    enlarged = scaled(SMALL, 7)
    assert enlarged.shape == (6, 6, 3)
    for row in range(6):
        for column in range(6):
            assert enlarged[row, column].tolist() == SMALL[row // 3, column // 3].tolist()
    assert scaled(SMALL, 3) is SMALL and scaled(SMALL, 2) is SMALL and scaled(SMALL, None) is SMALL


def test_a_large_picture_is_reduced_to_the_average_of_each_area():
    assert scaled(SMALL, 1).tolist() == [[[20, 30, 40]]]
    blocks = SMALL.repeat(4, axis=0).repeat(2, axis=1)  # 8 high, 4 wide
    assert np.array_equal(scaled(blocks, 4), SMALL.repeat(2, axis=0))
    assert scaled(np.zeros((200, 1, 3), np.uint8), 16).shape == (16, 1, 3)


def test_no_picture_is_larger_than_the_largest_side_unless_it_is_asked_for():
    wide = np.zeros((600, 2 * MAX_PICTURE_SIDE, 3), np.uint8)
    assert scaled(wide, None).shape == (300, MAX_PICTURE_SIDE, 3)
    assert scaled(wide, 2 * MAX_PICTURE_SIDE) is wide
    assert scaled(wide, 64).shape == (19, 64, 3)
