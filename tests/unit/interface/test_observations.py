"""Observations into words and pictures: every kind of space, what is chosen of it, and what is broken."""

import pickle
from typing import Any

import gymnasium as gym
import minigrid  # noqa: F401
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from eyas.errors import ConfigError, UnsupportedSpace
from eyas.interface.observations import observer_for


class OnlySpaces(gym.Env):
    """An environment that is only spaces."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, observations, render_mode=None):
        self.observation_space, self.render_mode = observations, render_mode


class Motto(spaces.Space[str]):
    """A class of space that Gymnasium does not know, whose values are language."""

    def sample(self, mask=None, probability=None):
        return ("onwards", "upwards")[self.np_random.integers(2)]


class Riddle(spaces.Space):
    def sample(self, mask=None, probability=None):
        raise RuntimeError("nobody knows")


PICTURE = spaces.Box(0, 255, (20, 30, 3), np.uint8)
ENCODING = spaces.Box(0, 255, (7, 7, 3), np.uint8)
FRAME = np.arange(16 * 18 * 3, dtype=np.uint8).reshape(16, 18, 3)


def shown(space, observation, frame=None, **options) -> Any:
    render_mode = "rgb_array" if frame is not None else None
    return observer_for(OnlySpaces(space, render_mode), **options)(observation, {}, frame)


def words(space, observation, **options) -> Any:
    (text,) = shown(space, observation, show="text", **options)
    return text


def real(env_id, render_mode=None) -> Any:
    env = gym.make(env_id, render_mode=render_mode)
    observation, info = env.reset(seed=3)
    return env, observation, info


# ----------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("space", "observation", "said"),
    [
        (spaces.Discrete(4), np.int64(2), "2"),
        (spaces.Discrete(4, start=-2), -2, "-2"),
        (spaces.MultiDiscrete([3, 4]), np.array([2, 0]), "[2, 0]"),
        (spaces.MultiDiscrete(np.array([[3, 4], [5, 6]])), np.array([[2, 0], [4, 5]]), "[[2, 0], [4, 5]]"),
        (spaces.MultiBinary(3), np.array([1, 0, 1], np.int8), "[1, 0, 1]"),
        (spaces.Box(-1, 1, (2,)), np.array([0.016, -0.314], np.float32), "[0.02, -0.31]"),
        (spaces.Box(-1, 1, ()), np.float32(0.5), "0.50"),
        (spaces.Box(-1, 1, (2, 2)), np.array([[0, 1], [-1, 0.126]]), "[[0.00, 1.00], [-1.00, 0.13]]"),
        (spaces.Box(0, 255, (3,), np.uint8), np.array([0, 7, 255], np.uint8), "[0, 7, 255]"),
        (spaces.Box(-np.inf, np.inf, (3,)), np.array([np.nan, np.inf, -np.inf]), "[nan, inf, -inf]"),
        (spaces.Box(-np.inf, np.inf, (2,)), np.array([-0.001, 3e38]), "[0.00, 3.00e+38]"),
        (spaces.Box(0, 1, (0,)), np.zeros(0, np.float32), "[]"),
        (spaces.Text(9), "a; b: c", "a; b: c"),
        (Motto(), "upwards", "upwards"),
        (spaces.Tuple([spaces.Discrete(32), spaces.Box(0, 1, (2,))]), (14, [0.5, 1.0]), "[14, [0.50, 1.00]]"),
        (spaces.Tuple([spaces.Discrete(3), spaces.Text(9)]), (2, "red"), "1: red; 0: 2"),
        (spaces.Sequence(spaces.Discrete(5)), (4, 0, 4), "[4, 0, 4]"),
        (spaces.Sequence(spaces.Discrete(5)), (), "[]"),
        (
            spaces.Sequence(spaces.Box(0, 1, (2,)), stack=True),
            np.array([[0, 1], [1, 0.5]]),
            "[[0.00, 1.00], [1.00, 0.50]]",
        ),
        (spaces.Sequence(spaces.Text(9)), ("red", "blue"), "0: red; 1: blue"),
        (spaces.Sequence(spaces.Text(9)), ("red",), "0: red"),
        (spaces.Sequence(spaces.Text(9)), (), "[]"),
        (spaces.OneOf([spaces.Discrete(5), spaces.Text(9)]), (0, 4), "0: 4"),
        (spaces.OneOf([spaces.Discrete(5), spaces.Text(9)]), (1, "4"), "1: 4"),
    ],
)
def test_each_kind_of_space_has_its_words(space, observation, said):
    assert words(space, observation) == said


def test_names_stand_before_the_numbers_of_a_flat_observation():
    pole = spaces.Box(-1, 1, (2,))
    names = ("cart position", "cart velocity")
    assert words(pole, np.array([0.016, -0.314]), names=names) == "cart position: 0.02, cart velocity: -0.31"
    hand = spaces.Tuple([spaces.Discrete(32), spaces.Discrete(2)])
    assert words(hand, (14, 1), names=("sum", "usable ace")) == "sum: 14, usable ace: 1"
    with pytest.raises(ConfigError, match="1 names for 2 numbers"):
        words(pole, np.zeros(2), names=("cart position",))
    with pytest.raises(ConfigError, match="flat list of numbers"):
        words(spaces.Dict(x=pole), {"x": np.zeros(2)}, names=names)


def test_precision_is_the_number_of_decimals():
    space, observation = spaces.Box(-4, 4, (2,)), np.array([3.14159, -0.5])
    assert words(space, observation, precision=0) == "[3, 0]"
    assert words(space, observation, precision=4) == "[3.1416, -0.5000]"


def test_keys_are_labels_language_comes_first_and_nested_keys_are_joined_by_dots():
    space = spaces.Dict(
        direction=spaces.Discrete(4),
        mission=Motto(),
        inventory=spaces.Dict(wood=spaces.Discrete(9), tools=spaces.Tuple([spaces.Discrete(2), spaces.Text(5)])),
    )
    observation = {"direction": 2, "mission": "onwards", "inventory": {"wood": 3, "tools": (1, "axe")}}
    assert (
        words(space, observation)
        == "mission: onwards; inventory.tools.1: axe; direction: 2; inventory.wood: 3; inventory.tools.0: 1"
    )


def test_a_single_piece_of_language_has_no_label():
    space = spaces.Dict(image=ENCODING, mission=Motto(), direction=spaces.Discrete(4))
    observation = {"image": ENCODING.sample(), "mission": "onwards", "direction": 1}
    picture, text = shown(space, observation, FRAME)
    assert picture is FRAME and text == "onwards"
    assert words(spaces.Dict(mission=Motto()), {"mission": "onwards"}) == "onwards"
    assert words(spaces.Dict(direction=spaces.Discrete(4)), {"direction": 1}) == "direction: 1"


def test_an_empty_text_is_not_shown():
    assert shown(spaces.Text(9, min_length=0), "") == ()


def test_an_unknown_space_is_sampled_without_touching_its_random_numbers():
    space, twin = Motto(seed=1), Motto(seed=1)
    observer_for(OnlySpaces(space))
    assert [space.sample() for _ in range(20)] == [twin.sample() for _ in range(20)]


# ----------------------------------------------------------------------------------------------- what is shown


@pytest.mark.parametrize(
    ("options", "render_mode", "expected"),
    [
        ({}, None, ["own", "go"]),
        ({}, "rgb_array", ["own", "go"]),
        ({"show": "image"}, "rgb_array", ["own"]),
        ({"show": "text"}, "rgb_array", ["mission: go; x: 2"]),
        ({"show": "both"}, "rgb_array", ["own", "mission: go; x: 2"]),
        ({"image_source": "render"}, "rgb_array", ["frame", "go"]),
        ({"image_source": "render", "show": "image"}, "rgb_array", ["frame"]),
        ({"image_source": "render", "show": "both"}, "rgb_array", ["frame", "mission: go; x: 2"]),
        ({"image_source": "observation", "show": "both"}, None, ["own", "mission: go; x: 2"]),
        ({"image_source": "observation", "show": "text"}, None, ["mission: go; x: 2"]),
    ],
)
def test_show_and_image_source_decide_what_is_shown(options, render_mode, expected):
    space = spaces.Dict(x=spaces.Discrete(4), view=PICTURE, mission=spaces.Text(9))
    observation = {"x": 2, "view": np.zeros((20, 30, 3), np.uint8), "mission": "go"}
    observer = observer_for(OnlySpaces(space, render_mode), **options)
    assert observer.renders is ("frame" in expected)
    pieces = observer(observation, {}, FRAME if observer.renders else None)
    names = {id(observation["view"]): "own", id(FRAME): "frame"}
    found = [piece if isinstance(piece, str) else names[id(piece)] for piece in pieces]
    assert found == expected


def test_numbers_are_said_only_where_there_is_no_picture():
    pole = spaces.Box(-1, 1, (2,))
    assert shown(pole, np.zeros(2)) == ("[0.00, 0.00]",)
    assert len(shown(pole, np.zeros(2), FRAME)) == 1
    assert shown(pole, np.zeros(2), FRAME, show="both")[1] == "[0.00, 0.00]"
    sometimes = spaces.OneOf([PICTURE, spaces.Discrete(3)])
    assert shown(sometimes, (1, 2)) == ("1: 2",)


def test_the_labels_of_what_is_not_shown_are_known():
    space = spaces.Dict(image=ENCODING, mission=Motto(), direction=spaces.Discrete(4))
    assert observer_for(OnlySpaces(space, "rgb_array")).left_out == ("image", "direction")
    assert observer_for(OnlySpaces(space, "rgb_array"), show="both").left_out == ("image",)
    assert observer_for(OnlySpaces(space, "rgb_array"), show="image").left_out == ("image", "mission", "direction")
    assert observer_for(OnlySpaces(spaces.Discrete(3), "rgb_array")).left_out == ("observation",)


GRAPH = spaces.Graph(spaces.Box(0, 1, (2,)), None)


@pytest.mark.parametrize(
    ("space", "render_mode", "options", "advice"),
    [
        (spaces.Discrete(4), None, {"show": "image"}, 'render_mode="rgb_array"'),
        (spaces.Discrete(4), None, {"show": "both"}, 'show="text"'),
        (spaces.Discrete(4), "human", {"image_source": "render"}, "its render_mode is 'human'"),
        (spaces.Discrete(4), "rgb_array", {"image_source": "observation"}, 'image_source="render"'),
        (PICTURE, "rgb_array", {"show": "text"}, 'show="image"'),
        (PICTURE, None, {"image_source": "render"}, 'render_mode="rgb_array"'),
        (spaces.Box(0, 1, (65,)), None, {}, "65 numbers, of which at most 64"),
        (spaces.Dict(a=spaces.Discrete(3), b=ENCODING), None, {}, "'b' cannot be shown"),
        (spaces.Dict(a=PICTURE, b=ENCODING), None, {"show": "text"}, "'b' cannot be shown"),
        (spaces.MultiBinary(65), "rgb_array", {"show": "text"}, "an observer of your own"),
        (GRAPH, None, {}, "an observer of your own"),
        (Riddle(), None, {}, "an observer of your own"),
        (spaces.Dict({}), None, {}, "nothing to put into words"),
    ],
)
def test_what_cannot_be_shown_is_refused_with_advice(space, render_mode, options, advice):
    with pytest.raises(UnsupportedSpace, match=advice):
        observer_for(OnlySpaces(space, render_mode), **options)


def test_what_cannot_be_said_is_left_out_where_a_picture_or_language_shows_the_observation():
    large = spaces.Box(0, 1, (65,))
    assert words(spaces.Box(0, 1, (64,)), np.zeros(64)).count("0.00") == 64
    assert shown(spaces.Dict(a=large, b=Motto()), {"a": large.sample(), "b": "onwards"}) == ("onwards",)
    for unsayable in (large, GRAPH, Riddle()):
        assert shown(unsayable, "anything", FRAME) == (FRAME,)


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"show": "words"}, "choose from auto, image, text, both"),
        ({"image_source": "camera"}, "choose from auto, observation, render"),
        ({"image_size": 0}, "pixels of the longer side"),
        ({"image_size": 2.5}, "pixels of the longer side"),
        ({"precision": -1}, "number of decimals"),
    ],
)
def test_an_option_that_is_not_one_is_refused(options, advice):
    with pytest.raises(ConfigError, match=advice):
        observer_for(OnlySpaces(PICTURE), **options)


def test_a_picture_is_given_back_itself():
    picture = np.zeros((20, 30, 3), np.uint8)
    (given,) = shown(PICTURE, picture)
    assert given is picture


def test_the_image_size_holds_for_every_picture_that_is_shown():
    stack = spaces.Box(0, 255, (2, 20, 30), np.uint8)
    assert [picture.shape for picture in shown(stack, stack.sample(), image_size=60)] == [(40, 60, 3)] * 2
    (picture,) = shown(spaces.Discrete(2), 0, np.zeros((60, 200, 3), np.uint8), image_size=50)
    assert picture.shape == (15, 50, 3)


# ----------------------------------------------------------------------------------------------- broken environments


@pytest.mark.parametrize(
    ("space", "observation", "complaint"),
    [
        (PICTURE, np.zeros((3, 4)), r"gave float64 \(3, 4\) as its picture; needed is uint8 \(20, 30, 3\)"),
        (PICTURE, np.zeros((20, 30, 3)), r"gave float64 \(20, 30, 3\) .* needed is uint8"),
        (PICTURE, None, "gave None as its picture"),
        (PICTURE, [[1, 2]], "gave list as its picture"),
        (spaces.Dict(view=PICTURE), {"view": "wall"}, "gave str as its picture 'view'"),
        (spaces.Box(0, 1, (20, 30)), np.zeros((20, 30), np.uint8), "needed is float32"),
        (spaces.Box(0, 1, (20, 30)), np.full((20, 30), np.nan), "nan in its picture; needed are numbers from 0 to 1"),
        (spaces.Text(9), 3, "gave int as its observation; needed is a text"),
        (spaces.Dict(a=spaces.Dict(b=Motto())), {"a": {"b": None}}, "gave None as its observation 'a.b'"),
        (spaces.Discrete(4), "2", "gave str as its observation; needed is whole number$"),
        (spaces.Discrete(4), 2.0, "gave float as its observation"),
        (spaces.Discrete(4), None, "gave None as its observation"),
        (spaces.Box(-1, 1, (2,)), np.zeros(3), r"gave float64 \(3,\) .* needed is numbers of shape \(2,\)"),
        (spaces.Box(-1, 1, (2,)), [[1], [2, 3]], "gave list as its observation"),
        (spaces.Box(-1, 1, (2,)), ["a", "b"], "as its observation; needed is numbers"),
        (spaces.MultiBinary(2), np.zeros(2), "whole numbers of shape"),
        (spaces.Dict(a=spaces.Discrete(2), b=Motto()), {"b": "on"}, r"observation lacks \['a'\]"),
        (spaces.Dict(a=spaces.Discrete(2)), 1, r"gave int as its observation; needed is a dict of \['a'\]"),
        (spaces.Tuple([spaces.Discrete(2)] * 2), (1,), "needed is a tuple of 2"),
        (spaces.Tuple([spaces.Discrete(2)] * 2), (1, "on"), "gave str as its observation '1'"),
        (spaces.Sequence(spaces.Discrete(2)), 1, "needed is a tuple"),
        (spaces.Sequence(spaces.Discrete(2), stack=True), 1, "needed is a stacked sequence"),
        (spaces.OneOf([spaces.Discrete(2)]), (1, 0), "needed is .index below 1, value"),
        (spaces.OneOf([spaces.Discrete(2)]), 1, "needed is .index below 1, value"),
    ],
)
def test_an_observation_that_its_space_does_not_hold_is_a_failure_of_the_environment(space, observation, complaint):
    with pytest.raises(ValueError, match=complaint):
        shown(space, observation)


@pytest.mark.parametrize("frame", [FRAME[..., 0], FRAME.astype(float), FRAME[:0], [FRAME], FRAME[..., :2]])
def test_a_rendering_that_is_no_picture_is_refused(frame):
    with pytest.raises(ValueError, match=r"needed is uint8 \(height, width, 3\)"):
        shown(spaces.Discrete(2), 0, frame)


def test_a_rendering_of_nothing_says_how_to_make_the_environment():
    observer = observer_for(OnlySpaces(spaces.Discrete(2), "rgb_array"))
    with pytest.raises(
        ValueError, match=r'render\(\) returned None: make the environment with render_mode="rgb_array"'
    ):
        observer(0, {}, None)


# ----------------------------------------------------------------------------------------------- any space


LEAVES = st.one_of(
    st.integers(1, 5).map(spaces.Discrete),
    st.lists(st.integers(1, 4), min_size=1, max_size=3).map(spaces.MultiDiscrete),
    st.integers(1, 4).map(spaces.MultiBinary),
    st.lists(st.integers(1, 3), max_size=3).map(lambda shape: spaces.Box(-np.inf, np.inf, tuple(shape))),
    st.sampled_from([PICTURE, ENCODING, GRAPH, spaces.Box(0, 1, (2, 16, 16))]),
    st.builds(Motto),
    st.builds(spaces.Text, st.integers(1, 8)),
)
KEYS = st.text("abcxyz", min_size=1, max_size=3)


def containers(inner):
    return st.one_of(
        st.dictionaries(KEYS, inner, min_size=1, max_size=3).map(spaces.Dict),
        st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple),
        st.lists(inner, min_size=1, max_size=3).map(spaces.OneOf),
        inner.map(spaces.Sequence),
    )


STACKED = st.one_of(
    st.integers(1, 5).map(spaces.Discrete),
    st.builds(lambda n: spaces.Box(-1, 1, (n,)), st.integers(1, 3)),
    st.builds(lambda n: spaces.Dict(a=spaces.Discrete(n), b=spaces.MultiBinary(n)), st.integers(1, 3)),
    st.builds(lambda n: spaces.Tuple([spaces.Discrete(n), spaces.Text(4)]), st.integers(1, 3)),
).map(lambda feature: spaces.Sequence(feature, stack=True))


def language_in(value):
    """Every text in an observation."""
    if isinstance(value, str):
        return [value]
    contents = value.values() if isinstance(value, dict) else value if type(value) in (tuple, list) else []
    return [text for content in contents for text in language_in(content)]


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(LEAVES | STACKED, containers, max_leaves=6),
    st.sampled_from(["auto", "text", "both"]),
    st.integers(0, 99),
)
def test_any_nested_space_is_read_without_an_error_and_says_all_its_language(space, show, seed):
    space.seed(seed)
    observation = space.sample()
    try:
        observer = observer_for(OnlySpaces(space, "rgb_array"), show=show)
    except UnsupportedSpace:
        assert show == "text"
        return
    once, again = observer(observation, {}, FRAME), pickle.loads(pickle.dumps(observer))(observation, {}, FRAME)
    assert len(once) == len(again) and all(np.array_equal(a, b) for a, b in zip(once, again))
    said = [piece for piece in once if isinstance(piece, str)]
    assert len(said) <= 1 and all(isinstance(piece, np.ndarray) for piece in once[: len(once) - len(said)])
    assert all(text in "".join(said) for text in language_in(observation))
    assert all(piece.dtype == np.uint8 and piece.shape[2] == 3 for piece in once if not isinstance(piece, str))


# ----------------------------------------------------------------------------------------------- real environments


@pytest.mark.parametrize("env_id", ["MiniGrid-Empty-5x5-v0", "BabyAI-GoToLocal-v0"])
def test_minigrid_shows_its_rendering_and_its_mission(env_id):
    env, observation, info = real(env_id, "rgb_array")
    observer = observer_for(env)
    picture, mission = observer(observation, info, env.render())
    assert np.shape(picture) in {(160, 160, 3), (256, 256, 3)}
    assert mission == observation["mission"] and " " in mission
    assert observer.left_out == ("direction", "image")
    everything = observer_for(env, show="both")(observation, info, env.render())
    assert everything[1] == f"mission: {mission}; direction: {observation['direction']}"


def test_cartpole_shows_its_rendering_or_its_numbers():
    env, observation, info = real("CartPole-v1", "rgb_array")
    (picture,) = observer_for(env, image_size=150)(observation, info, env.render())
    assert np.shape(picture) == (100, 150, 3)
    env, observation, info = real("CartPole-v1")
    names = ("cart position", "cart velocity", "pole angle", "pole angular velocity")
    (text,) = observer_for(env, names=names)(observation, info)
    assert text == ", ".join(f"{name}: {number:.2f}" for name, number in zip(names, observation)).replace(
        "-0.00", "0.00"
    )


@pytest.mark.parametrize("env_id", ["FrozenLake-v1", "Taxi-v4"])
def test_toy_texts_show_their_rendering_or_the_number_of_the_state(env_id):
    if env_id not in gym.registry:
        env_id = "Taxi-v3"
    env, observation, info = real(env_id, "rgb_array")
    (picture,) = observer_for(env)(observation, info, env.render())
    assert isinstance(picture, np.ndarray) and min(picture.shape[:2]) >= 256
    env, observation, info = real(env_id)
    assert observer_for(env)(observation, info) == (str(int(observation)),)


def test_blackjack_says_its_hand():
    env, observation, info = real("Blackjack-v1")
    assert observer_for(env)(observation, info) == (str([int(number) for number in observation]),)
