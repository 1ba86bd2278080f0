"""The JSON format: what is written is read back, and every way to fail has its own reason."""

import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eyas.errors import ConfigError
from eyas.interface.formats import JsonFormat, is_complete_json
from eyas.types import Completion, FailureReason, FinishReason, ParsedAction, ParseFailure

words = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8)
vocabularies = st.lists(words.filter(str.strip), min_size=1, max_size=6, unique_by=str.strip).map(tuple)


def parse(text, names=("left", "right"), finish=FinishReason.STOP, legal=None, **options):
    return JsonFormat(names, **options).parse(Completion(text, finish_reason=finish), legal)


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
    form = JsonFormat(names, ("größe",), thoughts)
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
    form = JsonFormat(names, thoughts=False)
    assert [form.parse(Completion(form.write(i, {}, ""))).action for i in range(len(names))] == list(range(len(names)))


@pytest.mark.parametrize("names", [("",), (" ",), ("a", "a"), ("a", " a")])
def test_names_that_no_text_can_tell_apart_are_refused(names):
    with pytest.raises(ConfigError, match="different words"):
        JsonFormat(names)


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


@pytest.mark.parametrize("tail", ['"1', " 1", ' "1 or', "", ' "'])
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
    text = JsonFormat(("left", "right")).write(1, {}, thought)
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
    assert JsonFormat(("-", "+"), ("current number",)).instruction() == (
        'Answer in JSON: {"current number": "...", "thoughts": "...", "action": "-" or "+"}'
    )
    assert JsonFormat(("-", "+"), ("current number",), thoughts=False).instruction() == (
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
    form = JsonFormat(("left", "right"), ("a",))
    begun = time.perf_counter()
    for finish in FinishReason:
        form.parse(Completion(text, finish_reason=finish))
    is_complete_json(text)
    assert time.perf_counter() - begun < 1


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
