"""Every format over every kind of action: what is written is read back, and what completes a head is the answer itself."""

import math

import numpy as np
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from eyas.interface.actions import SequenceCodec, codec_for
from eyas.interface.formats import FORMATS
from eyas.seeding import generator
from eyas.types import Completion, FailureReason, ParsedAction, ParseFailure

# ----------------------------------------------------------------------------------------------- what is drawn

characters = st.characters(exclude_categories=("Cs",))
tricky = st.sampled_from(
    ["<think>", "</answer>", "&lt;", "&", ";", '"', "\\", "{", "}", '"action":', "\n", " ", "left", ": "]
)
texts = st.lists(tricky | st.text(characters, max_size=4), max_size=5).map("".join)
names = texts.filter(lambda t: t.strip() and "\n" not in t)
vocabularies = st.lists(names, min_size=1, max_size=5, unique_by=str.strip)
keys = st.lists(texts.filter(lambda k: k not in ("thoughts", "action")), max_size=3, unique=True).map(tuple)


def boxes(kind):
    bounds = st.tuples(st.integers(-99, 99), st.integers(1, 50)).map(lambda b: (b[0], b[0] + b[1]))
    shapes = st.sampled_from([(), (1,), (3,), (2, 2)])
    return st.builds(lambda b, s: spaces.Box(b[0], b[1], s, kind), bounds, shapes)


simple_spaces = (
    st.builds(spaces.Discrete, st.integers(1, 400), start=st.integers(-3, 3))
    | st.lists(st.integers(1, 20), min_size=1, max_size=3).map(spaces.MultiDiscrete)
    | st.integers(1, 9).map(spaces.MultiBinary)
    | boxes(np.float32)
    | boxes(np.float64)
    | boxes(np.int16)
    | st.builds(
        lambda n, c: spaces.Text(n, charset=c), st.integers(1, 20), st.sampled_from(["ab", 'a";:{}<>/\\', "x&lt;"])
    )
)
nested_spaces = st.recursive(
    simple_spaces,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map(spaces.Tuple)
        | st.dictionaries(st.sampled_from(["move", "say", "aim at"]), inner, min_size=1, max_size=3).map(spaces.Dict)
    ),
    max_leaves=4,
)


@st.composite
def codecs(draw):
    kind = draw(st.sampled_from(["named", "any", "any", "bins", "several", "sequence", "sequence of numbers"]))
    if kind == "named":
        words = draw(vocabularies)
        return codec_for(spaces.Discrete(len(words), start=draw(st.integers(-2, 2))), words)
    if kind == "bins":
        return codec_for(draw(boxes(np.float32)), bins=draw(st.integers(2, 6)))
    if kind == "several":
        words = [
            draw(st.lists(names.filter(lambda n: "," not in n), min_size=2, max_size=3, unique_by=str.strip))
            for _ in "ab"
        ]
        return codec_for(spaces.MultiDiscrete([len(ws) for ws in words]), words)
    if kind == "sequence":
        return SequenceCodec(codec_for(spaces.Discrete(3), ("left", "right", "go, up")), draw(st.integers(1, 3)), " | ")
    if kind == "sequence of numbers":
        return SequenceCodec(codec_for(draw(boxes(np.float32))), 2, ";")
    return codec_for(draw(nested_spaces), precision=draw(st.integers(0, 4)))


def drawn_actions(codec, seed):
    actions = [codec.sample(generator("round trip", seed, i), None) for i in range(3)]
    return [codec.read(codec.write(a)) for a in actions]  # numbers as they are written


def formats(codec, fact_keys, thoughts):
    return [make(codec, fact_keys if thoughts else (), thoughts) for make in FORMATS.values()]


# ----------------------------------------------------------------------------------------------- properties


@settings(deadline=None, max_examples=150)
@given(codecs(), keys, texts, texts, st.booleans(), st.integers(0, 999))
def test_whatever_is_written_is_read_back(codec, fact_keys, fact, thought, thoughts, seed):
    facts = dict.fromkeys(fact_keys, fact)
    for form in formats(codec, fact_keys, thoughts):
        for action in drawn_actions(codec, seed):
            text = form.write(action, facts, thought)
            parsed = form.parse(Completion(text), None)
            assert isinstance(parsed, ParsedAction), (text, parsed)
            assert codec.write(parsed.action) == codec.write(action) == parsed.name
            np.testing.assert_equal(parsed.action, action)
            assert parsed.thought == (thought if form.thoughts else "")
            assert dict(parsed.facts) == (facts if form.thoughts else {})
            if form.stop:
                complete = [form.stop.is_complete(text[:k]) for k in (len(text) - 1, len(text))]
                assert complete == [False, True]


@settings(deadline=None, max_examples=150)
@given(codecs(), keys, texts, texts, st.booleans(), st.integers(0, 999))
def test_a_head_with_any_of_its_completions_is_that_action(codec, fact_keys, fact, thought, thoughts, seed):
    facts, legal = dict.fromkeys(fact_keys, fact), drawn_actions(codec, seed)
    for form in formats(codec, fact_keys, thoughts):
        written = [form.write(a, facts, thought) for a in legal]
        choice = form.choice(legal)
        head = ""
        if choice.head:
            head = next(written[0][:k] for k in range(len(written[0])) if choice.head.is_complete(written[0][:k]))
        assert [head + text for text in choice.continuations(head)] == written
        for action, text in form.actions_after(head, legal):
            parsed = form.parse(Completion(head + text), legal)
            assert isinstance(parsed, ParsedAction)
            np.testing.assert_equal(parsed.action, action)


@settings(deadline=None, max_examples=60)
@given(codecs(), texts, st.integers(1, 6), st.integers(0, 999))
def test_a_head_that_ran_into_the_words_keeps_what_goes_on_so(codec, thought, more, seed):
    legal = drawn_actions(codec, seed)
    for form in formats(codec, (), True):
        choice, written = form.choice(legal), [form.write(a, {}, thought) for a in legal]
        begin = 0
        if choice.head:
            begin = next(k for k in range(len(written[0])) if choice.head.is_complete(written[0][:k]))
        head = written[0][: begin + more]
        kept = form.actions_after(head, legal)
        assert [head + text for _, text in kept] == [w for w in written if w.startswith(head)]


@settings(deadline=None, max_examples=60)
@given(vocabularies, texts, st.booleans())
def test_only_legal_actions_pass(words, thought, thoughts):
    codec = codec_for(spaces.Discrete(len(words)), words)
    for form in formats(codec, (), thoughts):
        for action in codec.actions or ():
            result = form.parse(Completion(form.write(action, {}, thought)), (0,))
            wanted = ParsedAction if action == 0 else ParseFailure
            assert isinstance(result, wanted)
            assert action == 0 or result.reason is FailureReason.ILLEGAL_ACTION


def test_every_listed_action_is_scored_once():
    for codec in (codec_for(spaces.MultiDiscrete([3, 4])), codec_for(spaces.Box(-1, 1, (2,)), bins=3)):
        for form in formats(codec, (), False):
            continuations = form.choice(None).continuations("")
            assert len(set(continuations)) == len(continuations) == len(codec.actions) == math.prod([len(codec.names)])
