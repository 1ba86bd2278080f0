"""The formats of tags, and the scoring of actions in every format."""

import pickle
import time

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from eyas.errors import ConfigError
from eyas.interface.actions import SequenceCodec, codec_for
from eyas.interface.formats import FORMATS, JsonFormat, PlainFormat, ThinkFormat
from eyas.types import Completion, FailureReason, FinishReason, ParseFailure


def codec(*names):
    return codec_for(spaces.Discrete(len(names)), names)


# ----------------------------------------------------------------------------------------------- tags


def think(text, name="think", finish=FinishReason.STOP, legal=None, keys=(), thoughts=True):
    return FORMATS[name](codec("left", "right"), keys, thoughts).parse(Completion(text, finish_reason=finish), legal)


def test_each_tag_format_shows_its_answer():
    made = {name: FORMATS[name](codec("left", "right"), ("cards", "sum"), True) for name in FORMATS if "think" in name}
    facts = {"cards": "2, 3", "sum": "5", "prediction": "A win."}
    assert {name: form.write(1, facts, "Go.") for name, form in made.items()} == {
        "think": "<think>cards: 2, 3; sum: 5; Go.</think><answer>right</answer>",
        "think_observation": "<think><observation>cards: 2, 3; sum: 5</observation><reasoning>Go.</reasoning></think>"
        "<answer>right</answer>",
        "think_prediction": "<think><reasoning>cards: 2, 3; sum: 5; Go.</reasoning><prediction>A win.</prediction></think>"
        "<answer>right</answer>",
        "think_observation_prediction": "<think><observation>cards: 2, 3; sum: 5</observation><reasoning>Go.</reasoning>"
        "<prediction>A win.</prediction></think><answer>right</answer>",
    }
    assert made["think"].instruction() == (
        "Answer in this form: <think>cards: ...; sum: ...; ...</think><answer>...</answer> The answer is left or right."
    )
    assert made["think_observation"].instruction() == (
        "Answer in this form: <think><observation>cards: ...; sum: ...</observation><reasoning>...</reasoning></think>"
        "<answer>...</answer> The answer is left or right."
    )
    answer_only = FORMATS["think_observation"](codec("left", "right"), (), False)
    assert answer_only.instruction() == "Answer in this form: <answer>...</answer> The answer is left or right."
    assert answer_only.write(0, {}, "unsaid") == "<answer>left</answer>"


def test_spaces_between_tags_do_not_matter():
    parsed = think("\n<think>\nHm.\n</think>\n\n<answer>\nLEFT\n</answer>\n")
    assert (parsed.action, parsed.thought) == (0, "\nHm.\n")
    assert parsed.action_start == len("\n<think>\nHm.\n</think>\n\n")


@pytest.mark.parametrize(
    "text",
    [
        "<answer>left</answer>",
        "<think>a</think>left",
        "<answer>left</answer><think>a</think>",
        "<think>a<answer>left</answer></think>",
        "<think>a</think><answer>left</answer><answer>left</answer>",
        "<think>a</think></think><answer>left</answer>",
        "<think>a</think> so <answer>left</answer>",
        "So <think>a</think><answer>left</answer>",
        "<think>a</think><answer>left</answer>.",
        "<think>a</think><answer>left",
        "<THINK>a</THINK><answer>left</answer>",
    ],
)
def test_a_tag_that_is_missing_doubled_or_out_of_order_is_a_failure(text):
    assert think(text).reason is FailureReason.NO_ACTION_KEY


def test_thoughts_need_their_sections_and_no_text_beside_them():
    good = "<think><observation>o</observation> <reasoning>r</reasoning></think><answer>left</answer>"
    assert think(good, "think_observation").thought == "r"
    assert think(good, "think_observation").facts == {"observation": "o"}
    for bad in (
        good.replace("> <", "> x <"),
        good.replace("<observation>o</observation>", ""),
        good.replace("reasoning", "prediction"),
    ):
        assert think(bad, "think_observation").reason is FailureReason.NO_ACTION_KEY
    assert think(good).thought.startswith("<observation>")  # to the plain format these are no tags
    assert think(good, "think_observation", thoughts=False).reason is FailureReason.NO_ACTION_KEY


def test_tags_fail_for_the_same_reasons_as_json():
    def answer(words):
        return f"<think>a</think><answer>{words}</answer>"

    assert think("").reason is FailureReason.EMPTY
    assert think(answer("jump")).reason is FailureReason.UNKNOWN_ACTION
    assert think(answer("")).reason is FailureReason.UNKNOWN_ACTION
    assert think(answer("left or right")).reason is FailureReason.AMBIGUOUS_ACTION
    assert think(answer("left"), legal=(1,)).reason is FailureReason.ILLEGAL_ACTION
    cut = "<think>a</think><answer>left"
    assert think(cut, finish=FinishReason.LENGTH).reason is FailureReason.CUT_OFF
    assert think(cut, finish=FinishReason.LENGTH).action_start == len("<think>a</think>")
    assert think(answer("left"), finish=FinishReason.LENGTH).action == 0  # it was complete
    assert think("so " + answer("left"), finish=FinishReason.LENGTH).reason is FailureReason.NO_ACTION_KEY


@pytest.mark.parametrize(
    "thought",
    [
        "<think>",
        "</answer>",
        "&lt;",
        "&amp;lt;",
        "&",
        "&amp",
        "a < b; c > d",
        "<answer>left</answer>",
        "&lt",
        "k: v; w",
        " x ",
    ],
)
def test_a_thought_that_holds_tags_does_not_fool_the_parser(thought):
    for name in ("think", "think_observation_prediction"):
        for keys in ((), ("k", "k: v; w")):
            form = FORMATS[name](codec("left", "right"), keys, True)
            facts = (
                dict.fromkeys(keys, thought) | {"prediction": thought}
                if "prediction" in name
                else dict.fromkeys(keys, thought)
            )
            text = form.write(1, facts, thought)
            assert not form.stop.is_complete(text[:-1])
            parsed = form.parse(Completion(text))
            assert (parsed.action, parsed.thought, parsed.facts) == (1, thought, facts)


def test_facts_that_are_left_out_do_not_shift_the_others():
    parsed = think("<think>b: 2; so</think><answer>left</answer>", keys=("a", "b", "c"))
    assert (parsed.facts, parsed.thought) == ({"b": "2"}, "so")


HOSTILE = {
    "lines": "\n" * 100_000,
    "names": "left right " * 10_000,
    "thinks": "<think>" * 20_000,
    "answers": "<answer>" * 20_000 + "</answer>",
    "open tags": "<" * 100_000,
    "entities": "<think>" + "&lt;" * 30_000 + "</think><answer>left</answer>",
    "ampersands": "<think>a: " + "&" * 100_000 + "</think><answer>left</answer>",
    "semicolons": "<think>" + "a: ;" * 30_000 + "</think><answer>left</answer>",
    "blank thought": "<think>" + " " * 100_000 + "</think><answer>" + " " * 100_000 + "</answer>",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("name", [n for n in FORMATS if n != "json"])
def test_hostile_text_in_tags_is_parsed_fast_and_never_raises(name, text):
    form = FORMATS[name](codec("left", "right"), ("a", "b"), True)
    begun = time.process_time()
    for finish in FinishReason:
        form.parse(Completion(text, finish_reason=finish))
        form.actions_after(text)
    assert time.process_time() - begun < 1


@settings(deadline=None, max_examples=100)
@given(
    st.sampled_from(sorted(FORMATS)),
    st.text(),
    st.sampled_from(FinishReason),
    st.sampled_from([None, (), (0,), (0, 1)]),
)
def test_any_text_is_parsed_by_every_format(name, text, finish, legal):
    form = FORMATS[name](codec("left", "right"), ("a",), True)
    for wrapped in (
        text,
        f"<think>{text}</think><answer>{text}</answer>",
        f"<think></think><answer>left{text}</answer>",
    ):
        result = form.parse(Completion(wrapped, finish_reason=finish), legal)
        assert 0 <= result.action_start <= len(wrapped)
        assert isinstance(result, ParseFailure) or legal is None or result.action in legal


# ----------------------------------------------------------------------------------------------- scoring


def test_without_thoughts_there_is_no_head_and_the_text_is_the_whole_answer():
    for name in FORMATS:
        form = FORMATS[name](codec("left", "right"), (), False)
        choice = form.choice((1, 0), is_per_token=True)
        assert (choice.head, choice.is_per_token) == (None, True)
        assert list(choice.continuations("")) == [form.write(1, {}, ""), form.write(0, {}, "")]


def test_the_head_is_complete_where_the_words_begin():
    json_form, tags = JsonFormat(codec("left", "leave", "right")), ThinkFormat(codec("left", "leave", "right"))
    for form, head, ends in (
        (json_form, '{"thoughts": "\\"action\\": no", "action":', (' "left"}', ' "leave"}', ' "right"}')),
        (tags, "<think>a</think>\n<answer>", ("left</answer>", "leave</answer>", "right</answer>")),
    ):
        choice = form.choice(None)
        assert choice.head.is_complete(head) and head[-1] in choice.head.characters
        assert not any(choice.head.is_complete(head[:k]) for k in range(len(head)))
        assert tuple(choice.continuations(head)) == ends
        assert tuple(form.choice((2, 0)).continuations(head)) == (ends[2], ends[0])
        assert list(choice.continuations(head[:-1])) == []


def test_a_head_that_begins_the_words_leaves_the_actions_that_go_on_so():
    form = JsonFormat(codec("left", "leave", "right"))
    head = '{"thoughts": "", "action":'
    assert form.actions_after(head + ' "') == [(0, 'left"}'), (1, 'leave"}'), (2, 'right"}')]
    assert form.actions_after(head + '"le') == [(0, 'ft"}'), (1, 'ave"}')]
    assert form.actions_after(head + ' "x') == []
    assert form.actions_after(head + " left") == []
    tags = ThinkFormat(codec("left", "leave", "right"))
    assert tags.actions_after("<think></think><answer>\nlef") == [(0, "t</answer>")]
    for broken in ("<think><answer>", "so <think></think><answer>", "</answer>", "<think></think>"):
        assert tags.actions_after(broken) == []


def test_sampling_of_a_head_ends_where_no_action_can_come():
    assert JsonFormat(codec("a")).choice(None).head.is_complete('{"thoughts": "so"}')
    assert ThinkFormat(codec("a")).choice(None).head.is_complete("<think>so</think></answer>")


def test_actions_that_cannot_be_listed_cannot_be_scored():
    several = "set max_actions = 1"
    for actions, advice in (
        (codec_for(spaces.Box(-1, 1)), "cannot be listed"),
        (SequenceCodec(codec("a", "b"), 2), several),
        (codec_for(spaces.Text(9)), "cannot be listed"),
    ):
        with pytest.raises(ConfigError, match=advice):
            JsonFormat(actions).choice(None)
    commands = PlainFormat(codec_for(spaces.Text(9))).choice(("go", "stay"))
    assert list(commands.continuations("")) == ["go", "stay"]


def test_a_choice_can_be_sent_to_another_process():
    for name in FORMATS:
        form = FORMATS[name](codec_for(spaces.MultiDiscrete([2, 2])), (), False)
        choice = pickle.loads(pickle.dumps(form.choice((np.array([1, 0]),))))
        assert list(choice.continuations("")) == [form.write([1, 0], {}, "")]
