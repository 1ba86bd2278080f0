"""Codecs of arrays: one word or one number for each component, never outside the bounds."""

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from eyas.errors import ConfigError
from eyas.interface.actions import ReadFailure, codec_for
from eyas.types import FailureReason

UNKNOWN, ILLEGAL, AMBIGUOUS = FailureReason.UNKNOWN_ACTION, FailureReason.ILLEGAL_ACTION, FailureReason.AMBIGUOUS_ACTION


def why(codec, text):
    with pytest.raises(ReadFailure) as failure:
        codec.read(text)
    return failure.value.reason


def vector(codec, text):
    return codec.read(text).tolist()


# ----------------------------------------------------------------------------------------------- MultiDiscrete, MultiBinary


def test_several_choices_are_separated_by_commas():
    codec = codec_for(spaces.MultiDiscrete([2, 3], start=[1, 0]), [["stay", "go"], ["left", "ahead", "right"]])
    assert codec.names[:2] == ("stay, left", "stay, ahead")
    assert vector(codec, "go, right") == vector(codec, "[go,right]") == [2, 2]
    assert codec.write([1, 1]) == "stay, ahead"
    assert codec.describe() == "2 words, separated by commas: stay or go; left, ahead or right"
    assert [why(codec, t) for t in ("go", "go, left, left", "go, up", "go,", "")] == [UNKNOWN] * 5
    assert why(codec, "stay or go, left") is AMBIGUOUS
    assert codec.read("go, left").dtype == codec.space.dtype


def test_switches_are_on_or_off():
    codec = codec_for(spaces.MultiBinary(3))
    assert codec.write(np.array([1, 0, 1], np.int8)) == "on, off, on"
    assert vector(codec, "off, on, on") == [0, 1, 1]
    assert codec.describe() == "3 words, separated by commas, each off or on"
    assert len(codec.actions) == 8
    assert codec_for(spaces.MultiBinary(9)).actions is None


@pytest.mark.parametrize("names", [["a", "b"], [["a", "b"]], [["a"], ["b"]], [["a", "b,c"], ["d", "e"]]])
def test_names_of_components_need_to_fit_them(names):
    with pytest.raises(ConfigError):
        codec_for(spaces.MultiDiscrete([2, 2]), names)


# ----------------------------------------------------------------------------------------------- numbers


def test_numbers_are_rounded_and_stay_inside_the_bounds():
    codec = codec_for(spaces.Box(-0.4189, 0.4189, (2,), np.float64))
    assert codec.describe() == "2 numbers between -0.41 and 0.41, separated by commas"
    assert codec.write(np.array([0.4189, -0.004])) == "0.41, 0.00"
    assert vector(codec, "0.4189, -.25") == [0.4189, -0.25]
    assert why(codec, "0.42, 0") is ILLEGAL  # what plain rounding would have written
    with pytest.raises(ReadFailure) as failure:
        codec.read("1, 0")
    assert "1 is not between -0.41 and 0.41" in failure.value.detail
    coarse = codec_for(spaces.Box(0.1, 0.3, (1,), np.float32), precision=1)
    assert coarse.write(np.array([0.1], np.float32)) == "0.1"  # float32's 0.1 lies above the decimal one


@pytest.mark.parametrize("text", ["nan, 0", "inf, 0", "-inf, 0", "0x1, 0", "0", "0, 0, 0", "a, b", "1 2", ", ", "٣, 0"])
def test_text_that_is_no_finite_numbers_is_unknown(text):
    assert why(codec_for(spaces.Box(-1, 1, (2,))), text) is UNKNOWN


def test_numbers_have_the_space_s_shape_and_type():
    space = spaces.Box(np.array([[0, -3]], np.int16), np.array([[2, 3]], np.int16), dtype=np.int16)
    codec = codec_for(space)
    action = codec.read("2, -3")
    assert (action.dtype, action.shape) == (np.int16, (1, 2))
    assert space.contains(action)
    assert codec.describe() == "2 whole numbers, separated by commas: between 0 and 2; between -3 and 3"
    assert (why(codec, "1.5, 0"), why(codec, "3, 0"), why(codec, "99999999999, 0")) == (UNKNOWN, ILLEGAL, ILLEGAL)
    assert len(codec.actions) == 21  # whole numbers can be counted
    assert codec_for(spaces.Box(-1, 1, (1,))).actions is None
    assert codec_for(spaces.Box(-1, 1, ())).read("0.5").shape == ()
    with pytest.raises(ValueError, match="no action of"):
        codec.write(np.array([[1.5, 0]]))
    with pytest.raises(ValueError, match="no action of"):
        codec.write(np.array([1, 0]))


def test_a_precision_that_leaves_no_number_is_refused():
    with pytest.raises(ConfigError, match="more decimals"):
        codec_for(spaces.Box(0.001, 0.004), precision=2)
    assert codec_for(spaces.Box(0.001, 0.004), precision=3).describe() == "a number between 0.001 and 0.004"
    with pytest.raises(ConfigError, match="0 to 9"):
        codec_for(spaces.Box(0, 1), precision=10)


@settings(deadline=None, max_examples=200)
@given(
    st.floats(-1e6, 1e6),
    st.floats(0, 1e6),
    st.floats(0, 1),
    st.integers(0, 6),
    st.sampled_from([np.float32, np.float64]),
)
def test_every_number_in_the_bounds_is_written_inside_them(low, width, share, precision, dtype):
    space = spaces.Box(dtype(low), dtype(low + width + 2.0), (1,), dtype)
    codec = codec_for(space, precision=precision)
    action = np.clip(np.array([low + share * width], dtype), space.low, space.high)
    back = codec.read(codec.write(action))
    assert space.contains(back)
    tolerance = 10.0**-precision + 2 * float(np.spacing(np.abs([action, back]).max()))
    assert abs(float(back[0]) - float(action[0])) <= tolerance


# ----------------------------------------------------------------------------------------------- bins


def test_bins_are_evenly_spaced_and_writing_takes_the_nearest():
    codec = codec_for(spaces.Box(-2, 2, (1,)), bins=5)
    assert codec.names == ("lowest", "low", "middle", "high", "highest")
    assert [a.item() for a in codec.actions] == [-2, -1, 0, 1, 2]
    assert [codec.write(np.array([x])) for x in (-1.6, -1.4, 0.4, 2)] == ["lowest", "low", "middle", "highest"]
    assert codec_for(spaces.Box(0, 1, (1,)), bins=4).names == ("1", "2", "3", "4")
    assert codec_for(spaces.Box(0, 1, (2,)), bins=2).names == ("low, low", "low, high", "high, low", "high, high")
    assert codec_for(spaces.Box(0, 255, (1,), np.uint8), bins=3).read("middle").tolist() == [128]
    own = codec_for(spaces.Box(-1, 1, (2,)), bins=["brake", "coast", "push"])
    assert vector(own, "brake, push") == [-1, 1]


@pytest.mark.parametrize("bins", [1, 0, "low", ["low"], ["a", "a"], ["a,b", "c"], 9])
def test_bins_that_cannot_be_told_apart_are_refused(bins):
    with pytest.raises(ConfigError):
        codec_for(spaces.Box(0, 7, (1,), np.int8), bins=bins)
