"""The formats: what is written is read back, and every way to fail has its own reason."""

import json
import time

import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from eyas.errors import ConfigError
from eyas.interface.actions import SequenceCodec, codec_for
from eyas.interface.formats import FORMATS, JsonFormat, PlainFormat, is_complete_json, register_format
from eyas.types import Completion, FailureReason, FinishReason, ParsedAction, ParseFailure

words = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8)
vocabularies = st.lists(words.filter(str.strip), min_size=1, max_size=6, unique_by=str.strip).map(tuple)


def codec(*names):
    return codec_for(spaces.Discrete(len(names)), names)


def parse(text, names=("left", "right"), finish=FinishReason.STOP, legal=None, **options):
    return JsonFormat(codec(*names), **options).parse(Completion(text, finish_reason=finish), legal)


def reason(*arguments, **options):
    result = parse(*arguments, **options)
    assert isinstance(result, ParseFailure), result
    return result.reason


def name(*arguments, **options):
    result = parse(*arguments, **options)
    assert isinstance(result, ParsedAction), result
    return result.name


# ----------------------------------------------------------------------------------------------- round trips


@settings(deadline=None, max_examples=300)
@given(vocabularies, words, words, st.booleans())
def test_what_is_written_is_read_back(names, fact, thought, thoughts):
    form = JsonFormat(codec(*names), ("größe",), thoughts)
    for action in range(len(names)):
        text = form.write(action, {"größe": fact}, thought)
        parsed = form.parse(Completion(text))
        assert isinstance(parsed, ParsedAction)
        assert (parsed.action, parsed.name) == (action, names[action])
        assert is_complete_json(text)
        assert not is_complete_json(text[:-1])
        assert text[parsed.action_start :].startswith('"action"')
        if thoughts:
            assert (parsed.thought, dict(parsed.facts)) == (thought, {"größe": fact})


@pytest.mark.parametrize(
    "names",
    [
        ("1", "10", "100"),
        ("-", "+"),
        ("a", "A"),
        ('say "hi"', "say"),
        ("\\", "\\\\"),
        ("ß", "ss"),
        ("é", "e"),
        (" x", "y "),
    ],
)
def test_names_that_are_nearly_alike_are_told_apart(names):
    form = JsonFormat(codec(*names), thoughts=False)
    assert [form.parse(Completion(form.write(i, {}, ""))).action for i in range(len(names))] == list(range(len(names)))


@pytest.mark.parametrize("names", [("",), (" ",), ("a", "a"), ("a", " a")])
def test_names_that_no_text_can_tell_apart_are_refused(names):
    with pytest.raises(ConfigError, match="different words"):
        JsonFormat(codec(*names))


def test_case_decides_only_where_it_must():
    assert name('{"action": "LEFT"}') == "left"
    assert name('{"action": "A"}', ("a", "A")) == "A"
    assert reason('{"action": "STOP"}', ("stop", "Stop")) is FailureReason.UNKNOWN_ACTION


# ----------------------------------------------------------------------------------------------- failures


def test_every_failure_has_its_reason():
    seen = {
        reason("  \n"): FailureReason.EMPTY,
        reason("I go left"): FailureReason.NO_ACTION_KEY,
        reason('{"action": "jump"}'): FailureReason.UNKNOWN_ACTION,
        reason('{"action": "left or right"}'): FailureReason.AMBIGUOUS_ACTION,
        reason('{"action": "right"}', legal=(0,)): FailureReason.ILLEGAL_ACTION,
        reason('{"thoughts": "so', finish=FinishReason.LENGTH): FailureReason.CUT_OFF,
    }
    several = JsonFormat(SequenceCodec(codec("left", "right"), 2))
    seen[several.parse(Completion('{"action": "left, left, left"}')).reason] = FailureReason.TOO_MANY_ACTIONS
    assert all(got is wanted for got, wanted in seen.items())
    assert set(seen) == set(FailureReason)


def test_exactly_one_action_must_be_named():
    assert name('{"action": "I go left"}') == "left"
    assert name('{"action": ["left", "left"]}') == "left"
    assert name('{"action": left}') == "left"
    assert reason('{"action": "right, not left"}') is FailureReason.AMBIGUOUS_ACTION
    assert reason('{"action": "leftover"}') is FailureReason.UNKNOWN_ACTION  # a word counts as a whole


def test_10_is_never_read_as_1():
    assert name('{"action": "10"}', ("1", "10")) == "10"
    assert name('{"action": 10}', ("1", "10")) == "10"
    assert name('{"action": "take 10"}', ("1", "10")) == "10"
    assert reason('{"action": "10"}', ("1", "2")) is FailureReason.UNKNOWN_ACTION
    substring_rule = [n for n in ("1", "2") if n in '"10"']  # the original's rule would have played 1
    assert substring_rule == ["1"]


@pytest.mark.parametrize("tail", ['"1', " 1", ' "1 or', "", ' "', " take 1", ' ["1', " [1"])
def test_an_action_that_was_cut_off_is_not_guessed(tail):
    text = f'{{"action":{tail}'
    assert reason(text, ("1", "10"), finish=FinishReason.LENGTH) is FailureReason.CUT_OFF
    assert name('{"action": "1"', ("1", "10"), finish=FinishReason.LENGTH) == "1"  # it was complete


def test_the_action_span_begins_at_the_key():
    assert parse('{"thoughts": "é", "action": "left"}').action_start == len('{"thoughts": "é", ')
    assert parse("nothing here").action_start == len("nothing here")
    assert parse('{"action": "jump"}').action_start == 1


# ----------------------------------------------------------------------------------------------- thoughts and facts


def test_a_thought_that_quotes_an_action_does_not_fool_the_parser():
    thought = 'Not "action": "left", for {"action": "left"} loses.'
    text = JsonFormat(codec("left", "right")).write(1, {}, thought)
    parsed = parse(text)
    assert (parsed.name, parsed.thought) == ("right", thought)
    assert name('{"thoughts": ""action": "left" is bad", "action": "right"}') == "right"  # quotes not escaped


def test_without_thoughts_there_is_no_thought():
    assert parse('{"action": "left"}', thoughts=False).thought == ""
    assert parse('go! {"action": "left"}', thoughts=False).thought == "go!"


def test_facts_are_read_where_they_are_written():
    result = parse('{"a": "3", "b": 4, "thoughts": "", "action": "left"}', fact_keys=("a", "b", "c"))
    assert result.facts == {"a": "3", "b": "4"}


def test_the_instruction_shows_the_answer():
    assert JsonFormat(codec("-", "+"), ("current number",)).instruction() == (
        'Answer in JSON: {"current number": "...", "thoughts": "...", "action": "-" or "+"}'
    )
    assert JsonFormat(codec("-", "+"), ("current number",), thoughts=False).instruction() == (
        'Answer in JSON: {"action": "-" or "+"}'
    )


# ----------------------------------------------------------------------------------------------- completeness


@pytest.mark.parametrize(
    ("text", "is_complete"),
    [
        ('{"a": 1}', True),
        ('{"a": {"b": 1}', False),
        ('{"a": {"b": 1}}', True),
        ('{"a": "}"', False),
        ('{"a": "\\"}"', False),
        ('{"a": "{"}', True),
        ('so "I say { : {"a": 1}', False),
        ('"quoted" {"a": 1}', True),
        ("} {}", True),
        ("", False),
    ],
)
def test_is_complete_json(text, is_complete):
    assert is_complete_json(text) is is_complete


@settings(deadline=None)
@given(st.dictionaries(words, st.one_of(words, st.integers(), st.dictionaries(words, words)), max_size=4))
def test_any_object_is_complete_at_its_last_character_only(value):
    text = json.dumps(value, ensure_ascii=False)
    assert is_complete_json(text)
    assert not any(is_complete_json(text[:k]) for k in range(len(text)))


# ----------------------------------------------------------------------------------------------- hostile text

HOSTILE = {
    "open": '{"' * 50_000,
    "keys": '"action":' * 10_000,
    "key with space": ('"action"' + " " * 50) * 2_000,
    "thoughts": '"thoughts": "' * 8_000 + '"action": "',
    "facts": '"a": ' * 20_000 + '"action": "left"',
    "escapes": '{"thoughts": "' + "\\" * 100_001 + '"action": "left',
    "deep": "{" * 50_000 + '"action": "left"' + "}" * 50_000,
    "lists": '{"action": ' + "[" * 100_000,
    "null": '\0{"action"\0: "left\0"}' * 100,
    "spaces": '{"action":' + " " * 100_000,
    "names": '{"action": "' + "left right " * 10_000,
    "surrogate": '{"thoughts": "\\ud800", "action": "\\ud800"}',
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_is_parsed_fast_and_never_raises(text):
    form = JsonFormat(codec("left", "right"), ("a",))
    begun = time.process_time()
    for finish in FinishReason:
        form.parse(Completion(text, finish_reason=finish))
        form.actions_after(text)
    is_complete_json(text)
    form.choice(None).head.is_complete(text)
    assert time.process_time() - begun < 1


def test_half_a_surrogate_pair_becomes_text_that_can_be_stored():
    parsed = parse('{"a": "\\ud800", "thoughts": "\\ud83d\\ude00 \\udc00", "action": "left"}', fact_keys=("a",))
    assert parsed.thought == "😀 ?"
    assert parsed.facts["a"].encode()


@settings(deadline=None)
@given(st.text(), st.sampled_from(FinishReason), st.sampled_from([None, (), (0,), (0, 1)]))
def test_any_text_is_parsed(text, finish, legal):
    for wrapped in (text, f'{{"action": {text}', f'{{"action": "{text}"}}'):
        result = parse(wrapped, finish=finish, legal=legal)
        assert 0 <= result.action_start <= len(wrapped)
        if isinstance(result, ParsedAction):
            assert legal is None or result.action in legal


# ----------------------------------------------------------------------------------------------- other actions in JSON


def test_actions_that_are_not_listed_are_described_after_the_object():
    numbers = JsonFormat(codec_for(spaces.Box(-1, 1, (2,))), thoughts=False)
    assert numbers.instruction() == (
        'Answer in JSON: {"action": "..."}. The action is 2 numbers between -1.00 and 1.00, separated by commas.'
    )
    assert "or" not in JsonFormat(codec_for(spaces.Discrete(33))).instruction()
    assert JsonFormat(codec_for(spaces.Discrete(32))).instruction().count(" or ") == 31


def test_numbers_are_read_as_text_or_as_a_list():
    form = JsonFormat(codec_for(spaces.Box(-1, 1, (2,))))
    for text in ('{"action": "0.5, -1"}', '{"action": [0.5, -1]}', '{"action": 0.5, -1}'):
        assert form.parse(Completion(text)).action.tolist() == [0.5, -1]
    failure = form.parse(Completion('{"action": "0.5, 2"}'))
    assert failure.reason is FailureReason.ILLEGAL_ACTION
    assert "2 is not between -1.00 and 1.00" in failure.detail
    assert form.parse(Completion('{"action": "up"}')).detail.endswith("not 'up'")
    cut = Completion('{"action": [0.5, 0.1', finish_reason=FinishReason.LENGTH)
    assert form.parse(cut).reason is FailureReason.CUT_OFF  # it may have become 0.15


def test_free_text_in_quotes_is_meant_as_it_stands():
    form = JsonFormat(codec_for(spaces.Text(9, min_length=5, charset='abc ":}')))
    assert form.parse(Completion('{"action": "abcab"}')).action == "abcab"
    assert (
        form.parse(Completion('{"action": "abc"}')).reason is FailureReason.ILLEGAL_ACTION
    )  # the tail would have fitted
    assert form.parse(Completion('{"action": abc abc}')).action == "abc abc"


def test_facts_that_are_keys_of_the_answer_are_refused():
    with pytest.raises(ConfigError, match="rename"):
        JsonFormat(codec("a"), ("action",))


# ----------------------------------------------------------------------------------------------- the words alone


def test_a_plain_answer_is_its_first_line():
    form = PlainFormat(codec("left", "right"), ("fact",), True)
    assert (form.instruction(), form.stop) == ("Answer with the action only: left or right.", None)
    assert (form.fact_keys, form.thoughts) == ((), False)
    assert form.write(1, {}, "a thought") == "right"
    parsed = form.parse(Completion(" \n right \nor left"))
    assert (parsed.action, parsed.thought, parsed.facts, parsed.action_start) == (1, "", {}, 3)
    assert form.parse(Completion("left"), (1,)).reason is FailureReason.ILLEGAL_ACTION
    assert form.parse(Completion("jump")).reason is FailureReason.UNKNOWN_ACTION
    assert form.parse(Completion(" \n ")).reason is FailureReason.EMPTY


def test_a_plain_answer_that_was_cut_off_is_not_guessed():
    form = PlainFormat(codec("1", "10"))
    assert form.parse(Completion("1", finish_reason=FinishReason.LENGTH)).reason is FailureReason.CUT_OFF
    assert form.parse(Completion("1\nso", finish_reason=FinishReason.LENGTH)).name == "1"  # the line was complete


def test_names_with_line_breaks_are_refused_where_one_line_is_read():
    with pytest.raises(ConfigError, match="one line"):
        PlainFormat(codec("a\nb", "c"))


def test_names_with_commas_are_described_where_a_list_would_blur_them():
    switches = PlainFormat(codec_for(spaces.MultiBinary(2)))
    assert switches.instruction() == "Answer with the action only: 2 words, separated by commas, each off or on."


# ----------------------------------------------------------------------------------------------- by name


def test_the_formats_by_name():
    assert list(FORMATS) == [
        "json",
        "plain",
        "think",
        "think_observation",
        "think_prediction",
        "think_observation_prediction",
    ]


def test_a_format_of_one_s_own_is_found_by_its_name():
    try:

        @register_format("shout")
        class Shout(PlainFormat):
            def write(self, action, facts, thought):
                return super().write(action, facts, thought).upper()

        assert FORMATS["shout"](codec("left", "right"), (), False).write(0, {}, "") == "LEFT"
    finally:
        FORMATS.pop("shout")
