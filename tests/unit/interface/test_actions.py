"""Action codecs: every space has its words, every word its action, and what cannot be said is refused with advice."""

import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from eyas.errors import ConfigError, UnsupportedSpace
from eyas.interface.actions import ActionCodec, ReadFailure, SequenceCodec, codec_for
from eyas.interface.formats import FORMATS
from eyas.seeding import generator
from eyas.types import Completion, FailureReason

UNKNOWN, ILLEGAL = FailureReason.UNKNOWN_ACTION, FailureReason.ILLEGAL_ACTION
AMBIGUOUS, TOO_MANY = FailureReason.AMBIGUOUS_ACTION, FailureReason.TOO_MANY_ACTIONS


def why(codec, text, legal=None):
    with pytest.raises(ReadFailure) as failure:
        codec.read(text, legal)
    assert failure.value.detail or not text.strip()
    return failure.value.reason


def outcome(codec, text):
    """What reading comes to: the action, or the reason why there is none."""
    try:
        return codec.read(text)
    except ReadFailure as failure:
        return failure.reason


# ----------------------------------------------------------------------------------------------- Discrete


def test_discrete_actions_are_named_in_order_wherever_the_space_starts():
    codec = codec_for(spaces.Discrete(3, start=5), ("left", "right", "up"))
    assert (codec.actions, codec.names) == ((5, 6, 7), ("left", "right", "up"))
    assert [codec.read(n) for n in codec.names] == [5, 6, 7]
    assert codec.write(np.int64(6)) == "right"
    assert codec.describe() == "left, right or up"
    assert codec_for(spaces.Discrete(3, start=5)).names == ("0", "1", "2")


def test_an_action_outside_the_space_is_not_written():
    for action in (-1, 3, "left", 1.0, None):
        with pytest.raises(ValueError, match="is no action of Discrete"):
            codec_for(spaces.Discrete(3)).write(action)


def test_numbers_are_read_alike_whether_named_or_counted():
    named, counted = codec_for(spaces.Discrete(20), [str(i) for i in range(20)]), codec_for(spaces.Discrete(20))
    for text in ("1", " 10 ", "take 10", "1 or 2", "1 1", "007", "25", "x1", "-3", "1.5", "", "١"):
        assert outcome(named, text) == outcome(counted, text)
    assert counted.read("take 10") == 10
    assert why(counted, "1 or 2") is AMBIGUOUS
    assert why(counted, "25") is UNKNOWN


@pytest.mark.parametrize("text", ["-1", "−1", "1.5", "-1.5", "take -1", "0.1", "1.0", "1-2", "0-3", ".1", "1e3"])
@pytest.mark.parametrize("names", [None, [str(i) for i in range(6)]])
def test_a_signed_or_decimal_number_or_a_range_is_no_action(text, names):
    assert why(codec_for(spaces.Discrete(6), names), text) is UNKNOWN


@pytest.mark.parametrize("text", ["I choose 1.", "1.", "1, as it is free", "(1)", "- 1", "action:1", "1!", "go to 1-"])
@pytest.mark.parametrize("names", [None, [str(i) for i in range(6)]])
def test_a_number_may_end_a_sentence(text, names):
    assert codec_for(spaces.Discrete(6), names).read(text) == 1


def test_a_signed_number_is_no_component():
    assert why(codec_for(spaces.MultiDiscrete([4, 4])), "-1, 2") is UNKNOWN
    assert why(codec_for(spaces.MultiDiscrete([4, 4])), "1, 2.5") is UNKNOWN
    assert codec_for(spaces.MultiDiscrete([4, 4])).read("1, 2.").tolist() == [1, 2]


@pytest.mark.parametrize("number", ["-1", "1.9", '"-1"', '"1.9"'])
def test_a_json_number_that_is_no_action_is_a_parse_failure(number):
    form = FORMATS["json"](codec_for(spaces.Discrete(4)), (), False)
    assert form.parse(Completion('{"action": 1}')).action == 1
    assert form.parse(Completion(f'{{"action": {number}}}')).reason is UNKNOWN


def test_names_that_are_signed_numbers_are_mentioned():
    codec = codec_for(spaces.Discrete(3), ("-1", "0", "1"))
    assert [codec.read(f"I take {n}.") for n in ("-1", "0", "1")] == [0, 1, 2]


def test_the_longest_name_is_the_one_that_is_mentioned():
    codec = codec_for(spaces.Discrete(3), ("+", "++", "turn left"))
    assert (codec.read("play ++ now"), codec.read("I turn left.")) == (1, 2)
    assert why(codec, "return leftover") is UNKNOWN  # words count as whole words


def test_a_huge_space_is_counted_and_not_listed():
    codec = codec_for(spaces.Discrete(10**12, start=1))
    assert (codec.actions, codec.names) == (None, ())
    assert codec.read(codec.write(10**12)) == 10**12
    assert codec.describe() == "a number from 0 to 999999999999"
    assert why(codec, "9" * 10_000) is UNKNOWN
    assert codec_for(spaces.Discrete(256)).actions == tuple(range(256))
    assert codec_for(spaces.Discrete(257)).actions is None


@pytest.mark.parametrize("names", [("",), (" ",), ("a", "a"), ("a", " a")])
def test_names_that_no_text_can_tell_apart_are_refused(names):
    with pytest.raises(ConfigError, match="different words"):
        codec_for(spaces.Discrete(len(names)), names)


def test_names_need_to_be_as_many_as_actions():
    with pytest.raises(ConfigError, match="not as many actions as names"):
        codec_for(spaces.Discrete(3), ("a", "b"))


# ----------------------------------------------------------------------------------------------- legal actions


def test_legal_actions_come_from_the_list_or_the_mask():
    codec = codec_for(spaces.Discrete(4, start=1))
    assert codec.legal({}) is None
    assert codec.legal({"legal_actions": None}) is None
    assert codec.legal({"legal_actions": np.array([4, 2])}) == (4, 2)
    assert codec.legal({"action_mask": np.array([0, 1, 0, 1], np.int8)}) == (2, 4)
    assert codec.legal({"legal_actions": [1], "action_mask": np.ones(4, np.int8)}) == (1,)
    assert codec.legal({"action_mask": np.zeros(4, np.int8)}) == ()
    assert codec.is_legal(2, (4, 2)) and not codec.is_legal(3, (4, 2)) and codec.is_legal(3, None)


def test_legal_actions_that_do_not_fit_the_space_are_the_environment_s_failure():
    codec = codec_for(spaces.Discrete(4))
    with pytest.raises(ValueError, match="9 is no action"):
        codec.legal({"legal_actions": [0, 9]})
    with pytest.raises(ValueError, match=r"shape \(3,\), not \(4,\)"):
        codec.legal({"action_mask": np.ones(3)})
    with pytest.raises(ValueError, match="no legal action"):
        codec.sample(generator("x"), ())


def test_random_discrete_actions_are_the_same_ones_as_ever():
    codec = codec_for(spaces.Discrete(5, start=2))
    for seed in range(20):
        for legal in (None, (2, 3, 6), (4,)):
            wanted = int(generator("random actor", seed).choice(legal or range(2, 7)))
            drawn = codec.sample(generator("random actor", seed), legal)
            assert (drawn, type(drawn)) == (wanted, int)


def test_a_mask_over_several_components_leaves_their_product():
    codec = codec_for(spaces.MultiDiscrete([2, 3], start=[5, 0]))
    mask = (np.array([0, 1], np.int8), np.array([1, 0, 1], np.int8))
    legal = codec.legal({"action_mask": mask})
    assert [a.tolist() for a in legal] == [[6, 0], [6, 2]]
    assert codec.is_legal(np.array([6, 2]), legal) and not codec.is_legal(np.array([6, 1]), legal)
    binary = codec_for(spaces.MultiBinary(3)).legal({"action_mask": np.array([0, 2, 1], np.int8)})
    assert [a.tolist() for a in binary] == [[0, 0, 1], [0, 1, 1]]
    assert codec.space.sample(mask=mask).tolist() in [[6, 0], [6, 2]]  # Gymnasium reads the same mask
    with pytest.raises(ValueError, match="one mask for each component"):
        codec.legal({"action_mask": mask[:1]})
    with pytest.raises(UnsupportedSpace, match="legal_actions"):
        codec_for(spaces.MultiBinary(13)).legal({"action_mask": np.full(13, 2, np.int8)})


@pytest.mark.parametrize(
    "space", [spaces.Tuple((spaces.Discrete(2), spaces.Discrete(2))), spaces.Dict(a=spaces.Discrete(2))], ids=str
)
def test_a_mask_over_parts_is_not_silently_ignored(space):
    with pytest.raises(ValueError, match="legal_actions"):
        codec_for(space).legal({"action_mask": np.ones(2, np.int8)})
    assert codec_for(space).legal({"action_mask": None}) is None


def test_legal_arrays_are_put_into_words_once(monkeypatch):
    codec = codec_for(spaces.MultiDiscrete([16, 16]))
    legal = codec.actions
    written = []
    monkeypatch.setattr(codec, "write", lambda a, write=codec.write: written.append(1) or write(a))
    for action in legal[::5]:
        assert codec.is_legal(action, codec.actions)
        assert not codec.is_legal(action, [a for a in legal if a is not action])
    assert len(written) <= len(legal) + 2 * len(legal[::5])


def test_actions_of_equal_value_and_another_type_are_not_confused():
    codec = codec_for(spaces.Box(0, 1, (1,), np.float32), precision=0)
    assert codec.is_legal(np.array([1], np.float32), [np.array([0], np.float32), np.array([0.9], np.float32)])
    parts = codec_for(spaces.Dict(a=spaces.Discrete(3), b=spaces.MultiBinary(2)))
    legal = [{"a": 1, "b": np.array([0, 1], np.int8)}, {"a": 2, "b": np.array([1, 1], np.int8)}]
    assert parts.is_legal({"a": 2, "b": np.array([1, 1], np.int8)}, legal)
    assert not parts.is_legal({"a": 1, "b": np.array([1, 1], np.int8)}, legal)


def test_whether_a_later_action_may_follow_is_said_by_the_info_before_it():
    codec = SequenceCodec(codec_for(spaces.Discrete(3, start=1)), 3)
    assert codec.may_follow({}, 3)
    assert [codec.may_follow({"action_mask": [0, 1, 1]}, a) for a in (1, 2, 3)] == [False, True, True]
    assert not codec.may_follow({"legal_actions": []}, 1)


# ----------------------------------------------------------------------------------------------- text


def test_text_needs_to_be_of_the_space():
    codec = codec_for(spaces.Text(4, min_length=2, charset="ab "))
    assert codec.read("  a b\n") == "a b"
    assert [why(codec, t) for t in ("a", "ababa", "abc")] == [ILLEGAL] * 3
    assert codec.describe() == "a text of 2 to 4 characters out of  ab"
    assert codec.actions is None


def test_an_admissible_command_is_read_whatever_its_case():
    space = spaces.Text(20, charset="abcdefghijklmnopqrstuvwxyzGN ")
    codec = codec_for(space)
    legal = codec.legal({"legal_actions": ["Go North", "look"]})
    assert codec.read("go north", legal) == "Go North"
    assert codec.read("look", legal) == "look"
    assert not codec.is_legal(codec.read("jump", legal), legal)
    assert codec.sample(generator("x"), legal) in legal
    with pytest.raises(ValueError, match="is no action"):
        codec.legal({"legal_actions": ["DANCE!"]})


def test_random_text_is_of_the_space_and_survives_reading():
    for space in (
        spaces.Text(5),
        spaces.Text(3, min_length=3, charset=" \nx"),
        spaces.Text(10**6),
        spaces.Text(0, min_length=0),
    ):
        codec = codec_for(space)
        for seed in range(20):
            text = codec.sample(generator("text", seed), None)
            assert space.contains(text) and codec.read(codec.write(text)) == text


# ----------------------------------------------------------------------------------------------- several parts

PARTS = spaces.Dict(
    move=spaces.Discrete(3),
    say=spaces.Text(30, charset='ab;:{}"\\ '),
    aim=spaces.Tuple([spaces.Box(-1, 1, (2,)), spaces.Discrete(2)]),
)


def test_parts_are_named_and_nested_ones_stand_in_braces():
    codec = codec_for(PARTS)
    action = {"move": 2, "say": 'a";}{: \\b', "aim": (np.array([0.5, -1], np.float32), 1)}
    text = codec.write(action)
    assert text == r'move: 2; say: "a\";}{: \\b"; aim: {0.50, -1.00; 1}'
    back = codec.read(text)
    assert back["say"] == action["say"] and back["move"] == 2 and back["aim"][0].tolist() == [0.5, -1]
    assert PARTS.contains(back)
    assert codec.write(codec.read("say: ab; aim: {0, 0; 1}; move: 1;")) == 'move: 1; say: "ab"; aim: {0.00, 0.00; 1}'
    assert codec.actions is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "move: 1",
        "move: 1; say: ab; aim: {0, 0; 1}; more: 1",
        "move: 1; move: 1; say: ab",
        "1; 2; 3",
        "{" * 9_999,
        '"' * 9_999,
        ";" * 9_999,
    ],
)
def test_parts_that_are_missing_or_strange_are_unknown(text):
    assert why(codec_for(PARTS), text) is UNKNOWN


def test_parts_are_listed_where_they_are_few():
    codec = codec_for(spaces.Tuple([spaces.Discrete(2), spaces.MultiBinary(1)]))
    assert codec.names == ("0; off", "0; on", "1; off", "1; on")
    assert codec.read("1; on")[0] == 1
    assert why(codec, "1") is UNKNOWN
    assert [codec.write(a) for a in codec.legal({"legal_actions": codec.actions[2:]})] == ["1; off", "1; on"]
    for wrong in ((1,), {"a": 1}, "1; on", (5, np.array([1], np.int8))):
        with pytest.raises(ValueError):
            codec.write(wrong)


def test_bins_reach_the_boxes_inside():
    codec = codec_for(spaces.Dict(a=spaces.Box(0, 1), b=spaces.Discrete(2)), bins=2)
    assert codec.names == ("a: low; b: 0", "a: low; b: 1", "a: high; b: 0", "a: high; b: 1")


# ----------------------------------------------------------------------------------------------- what is refused


class Strange(gym.Space):
    """Of no kind that is known."""

    def __repr__(self) -> str:  # the same in every process: it names the test
        return "Strange()"


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(-np.inf, np.inf, (2,)),
        spaces.Box(np.array([0, -np.inf]), np.array([1, 1])),
        spaces.Box(-3e38, 3e38, (1,), np.float32),
        spaces.Box(0, 1, (0,)),
        spaces.Sequence(spaces.Discrete(2)),
        spaces.Graph(spaces.Discrete(2), None),
        spaces.Dict({}),
        spaces.Tuple([spaces.Discrete(2), spaces.Box(0, np.inf)]),
        spaces.Dict({"a;b": spaces.Discrete(2)}),
        Strange(),
    ],
    ids=str,
)
def test_a_space_without_words_is_refused_with_advice(space):
    with pytest.raises(UnsupportedSpace, match=r"(?s)the action space .*TransformAction.*ActionCodec"):
        codec_for(space)


class Spoken(ActionCodec):
    """A codec of one's own: the moves of a knight, as "2 -1"."""

    space = Strange()

    def describe(self):
        return "two numbers"

    def write(self, action):
        return " ".join(map(str, self.own(action)))

    def read(self, text, legal=None):
        return tuple(int(n) for n in text.split())

    def own(self, action):
        if sorted(map(abs, action)) != [1, 2]:
            raise self._outside(action)
        return tuple(action)

    def draw(self, rng):
        return (2, int(rng.choice((-1, 1))))


def test_a_codec_of_one_s_own_needs_five_methods():
    codec = Spoken()
    form = FORMATS["json"](codec, (), False)
    assert form.instruction() == 'Answer in JSON: {"action": "..."}. The action is two numbers.'
    legal = codec.legal({"legal_actions": [[2, -1], [1, 2]]})
    assert form.parse(Completion(form.write((2, -1), {}, "")), legal).action == (2, -1)
    assert form.parse(Completion('{"action": "-1 2"}'), legal).reason is ILLEGAL
    assert (codec.actions, codec.names) == (None, ())
    assert codec.sample(generator("x"), legal) in legal and codec.sample(generator("x"), None)[0] == 2
    with pytest.raises(ValueError, match="is no action of"):
        codec.legal({"legal_actions": [(0, 0)]})
    with pytest.raises(ConfigError, match="one action a step"):
        SequenceCodec(codec, 2)


def test_options_that_do_nothing_for_the_space_are_refused():
    with pytest.raises(ConfigError, match="leave them out"):
        codec_for(spaces.Box(0, 1), ("a",))
    with pytest.raises(ConfigError, match="leave them out"):
        codec_for(spaces.Discrete(2), bins=3)


# ----------------------------------------------------------------------------------------------- several actions a step


def test_several_actions_are_read_in_order():
    codec = SequenceCodec(codec_for(spaces.Discrete(3), ("left", "right", "up")), 3)
    assert codec.read("left, up ,right") == (0, 2, 1)
    assert codec.write((1, 1)) == "right, right"
    assert codec.describe() == "1 to 3 actions, separated by commas: left, right, up"
    assert why(codec, "left, left, left, left") is TOO_MANY
    assert [why(codec, t) for t in ("", "left,", "left,,up", "left, jump")] == [UNKNOWN] * 4
    assert why(codec, "left up") is AMBIGUOUS
    assert (codec.actions, codec.names) == (None, ())
    for wrong in ((), (0,) * 4, 0, (3,)):
        with pytest.raises(ValueError):
            codec.write(wrong)


def test_only_the_first_action_is_judged_now():
    codec = SequenceCodec(codec_for(spaces.Discrete(3)), 2)
    legal = codec.legal({"legal_actions": [0, 2]})
    assert legal == ((0,), (2,))
    assert codec.is_legal((0, 1), legal) and not codec.is_legal((1, 0), legal)
    assert {codec.sample(generator("x", i), legal) for i in range(30)} == set(legal)
    assert len({codec.sample(generator("x", i), None) for i in range(30)}) == 3
    assert SequenceCodec(codec_for(spaces.Discrete(2)), 1).actions == ((0,), (1,))


def test_a_separator_that_words_can_hold_is_refused_with_another():
    named = codec_for(spaces.Discrete(2), ("a, b", "c"))
    with pytest.raises(ConfigError, match="choose another, such as ';'"):
        SequenceCodec(named, 2)
    assert SequenceCodec(named, 2, ";").read("a, b; c") == (0, 1)
    pairs = [
        (spaces.Box(-1, 1, (2,)), ","),
        (spaces.MultiDiscrete([2, 2]), ","),
        (spaces.Tuple([spaces.Discrete(2)] * 2), ";"),
    ]
    for space, separator in pairs:
        codec = codec_for(space)
        with pytest.raises(ConfigError, match="choose another"):
            SequenceCodec(codec, 2, separator)
        action = codec.sample(generator("x"), None)
        pair = SequenceCodec(codec, 2, " | ")
        assert pair.write(pair.read(pair.write((action, action)))) == pair.write((action, action))
    with pytest.raises(ConfigError, match="one action a step"):
        SequenceCodec(codec_for(spaces.Text(5)), 2, " | ")
    with pytest.raises(ConfigError):
        SequenceCodec(named, 0)


# ----------------------------------------------------------------------------------------------- all of them

SPACES = [
    spaces.Discrete(4, start=-2),
    spaces.MultiDiscrete([2, 5], start=[3, -1]),
    spaces.MultiDiscrete([[2, 2], [2, 2]]),
    spaces.MultiBinary([2, 2]),
    spaces.Box(-1, 1, (2, 2)),
    spaces.Box(0, 255, (2,), np.uint8),
    spaces.Box(-5, 7, (1,), np.float16),
    spaces.Text(6),
    PARTS,
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_samples_are_of_the_space_and_are_read_back(space):
    codec = pickle.loads(pickle.dumps(codec_for(space)))
    for seed in range(25):
        action = codec.sample(generator("sample", seed), None)
        assert space.contains(action)
        text = codec.write(action)
        assert space.contains(codec.read(text))
        assert codec.write(codec.read(text)) == text
        assert codec.is_legal(action, (action,))
        assert codec.write(codec.sample(generator("sample", seed), None)) == text  # the seed alone decides


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_listed_actions_are_of_the_space_with_their_names(space):
    codec = codec_for(space)
    assert (codec.actions is None) == (codec.names == ())
    for action, name in zip(codec.actions or (), codec.names, strict=True):
        assert space.contains(action)
        assert codec.write(codec.read(name)) == codec.write(action) == name
    assert len(set(codec.names)) == len(codec.names)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(SPACES), st.text(max_size=40))
def test_any_text_is_read_or_refused_with_a_reason(space, text):
    result = outcome(codec_for(space), text)
    assert isinstance(result, FailureReason) or space.contains(result)
