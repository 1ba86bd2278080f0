"""The interface: what it reads from an environment, what it shows, and what text does."""

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import eyas.envs  # noqa: F401
from eyas.errors import ConfigError, UnsupportedSpace
from eyas.interface import Interface
from eyas.interface.history import Conversation, LastObservations, NoHistory, Summary
from eyas.rollouts.images import MemoryImageStore
from eyas.types import Completion, ExpertMove, FailureReason, ImagePart, TaskDescription, TextPart
from helpers import CountingEnv, picture


class Spaces(gym.Env):
    """An environment that is only spaces."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, observations, actions=None, render_mode=None, description=None):
        self.observation_space, self.action_space = observations, actions or spaces.Discrete(3)
        self.render_mode, self.description = render_mode, description


PICTURE = spaces.Box(0, 255, (20, 30, 3), np.uint8)
RENDERS = {"render_mode": "rgb_array"}


def shown(interface, observation, info=None, rendered=None):
    """The texts of the first prompt, and the pictures that it shows."""
    images = MemoryImageStore()
    (message,) = interface.render(observation, info or {}, rendered, images)
    texts = [p.text for p in message.parts if isinstance(p, TextPart)]
    return " ".join(texts), [images.get(p.image_hash) for p in message.parts if isinstance(p, ImagePart)]


def test_the_picture_comes_from_the_observation_or_from_render():
    assert not Interface.for_env(Spaces(PICTURE)).renders
    assert Interface.for_env(Spaces(spaces.Discrete(4), **RENDERS)).renders
    assert Interface.for_env(Spaces(spaces.Box(0, 1, (3,)), **RENDERS)).renders
    assert not Interface.for_env(Spaces(spaces.Text(9))).renders
    assert Interface.for_env(Spaces(PICTURE, **RENDERS), image_source="render").renders


def test_what_cannot_be_shown_or_chosen_is_refused_with_advice():
    with pytest.raises(UnsupportedSpace, match='render_mode="rgb_array"'):
        Interface.for_env(Spaces(spaces.Discrete(4)), show="image")
    with pytest.raises(UnsupportedSpace, match="bound"):
        Interface.for_env(Spaces(PICTURE, spaces.Box(-np.inf, np.inf)))
    with pytest.raises(ConfigError, match="choose from json"):
        Interface.for_env(Spaces(PICTURE), format="xml")
    with pytest.raises(ConfigError, match="names"):
        Interface.for_env(Spaces(PICTURE, description=TaskDescription("Play.", ("a", "b"))))
    with pytest.raises(ConfigError, match="list"):
        Interface.for_env(Spaces(PICTURE, spaces.Box(-1, 1)), action_mode="score")


def test_a_prompt_holds_picture_task_sentence_and_instruction():
    interface, frame = Interface.for_env(gym.make("eyas/EZPoints-v0"), text="My own words."), picture()
    text, pictures = shown(interface, np.resize(frame, (300, 300, 3)), {"observation_text": "So far: 1+"})
    assert len(pictures) == 1
    assert text.startswith("My own words. So far: 1+ Answer in JSON: ")


def test_a_text_observation_is_in_the_prompt():
    text, pictures = shown(Interface.for_env(CountingEnv()), "the door is open")
    assert "the door is open" in text and not pictures


def test_an_environment_that_says_nothing_of_itself_is_read_from_its_spaces():
    cart = gym.make("CartPole-v1")
    interface = Interface.for_env(cart)
    text, _ = shown(interface, np.array([0.1, -1.234, 0.0, 2.0], np.float32))
    assert "Cart Pole" in text
    assert "cart position: 0.10, cart velocity: -1.23" in text
    assert "push cart to the left" in text and "push cart to the right" in text
    pendulum = Interface.for_env(gym.make("Pendulum-v1"), bins=3)
    assert pendulum.codec.names == ("low", "middle", "high")
    parsed = pendulum.parse(Completion(pendulum.write(ExpertMove(np.array([-1.9], np.float32)))), None)
    assert parsed.action == pytest.approx([-2.0]) and parsed.name == "low"


@pytest.mark.parametrize("bad", [None, picture().astype(float), picture()[..., :1], picture()[:0], picture()[0]])
def test_a_broken_picture_is_a_failure_of_the_environment(bad):
    with pytest.raises(ValueError, match="needed is uint8"):
        shown(Interface.for_env(Spaces(PICTURE)), bad)


@pytest.mark.parametrize("piece", [picture().astype(float), picture()[..., :1], 7])
def test_an_observer_of_one_s_own_is_checked_too(piece):
    interface = dataclasses.replace(Interface.for_env(CountingEnv()), observer=lambda *_: [piece])
    with pytest.raises(ValueError, match="the observer gave"):
        shown(interface, "x")


def test_every_part_can_be_replaced_by_a_function():
    interface = Interface.for_env(CountingEnv(), text="Count.")
    own = dataclasses.replace(interface, observer=lambda observation, info, frame: [frame, observation.upper()])
    text, pictures = shown(own, "the door", rendered=picture())
    assert text.startswith("Count. THE DOOR ") and np.array_equal(pictures[0], picture())


def test_actions_are_those_of_the_space_wherever_it_starts():
    env = Spaces(PICTURE, spaces.Discrete(3, start=5))
    interface = Interface.for_env(env)
    for action in range(5, 8):
        parsed = interface.parse(Completion(interface.write(ExpertMove(action))), legal=(5, 6, 7))
        assert parsed.action == action
        assert env.action_space.contains(parsed.action)
    illegal = interface.parse(Completion(interface.write(ExpertMove(7))), legal=(5, 6))
    assert illegal.reason is FailureReason.ILLEGAL_ACTION


def test_legal_actions_are_those_that_info_names():
    interface = Interface.for_env(CountingEnv())
    assert interface.legal_actions({}) == (0, 1)
    assert interface.legal_actions({"legal_actions": [1]}) == (1,)
    assert interface.legal_actions({"action_mask": np.array([1, 0], np.int8)}) == (0,)
    assert interface.parse(Completion('{"action": "1"}'), None).action == 1
    assert interface.parse(Completion('{"action": "1"}'), (0,)).reason is FailureReason.ILLEGAL_ACTION
    with pytest.raises(ValueError):
        interface.legal_actions({"legal_actions": [7]})


def test_legal_actions_are_not_repeated_in_every_step_where_the_environment_says_nothing():
    few, many = (Interface.for_env(Spaces(PICTURE, spaces.MultiDiscrete([n, n]))) for n in (5, 16))
    assert len(few.legal_actions({})) == 25
    assert many.codec.actions is not None
    assert many.legal_actions({}) is None
    last = many.codec.actions[-1]
    assert many.parse(Completion(many.write(ExpertMove(last))), None).action.tolist() == [15, 15]
    assert len(many.legal_actions({"legal_actions": [last]})) == 1


def test_several_choices_take_names_of_their_own():
    names = (("left", "right"), ("open", "shut"))
    interface = Interface.for_env(Spaces(PICTURE, spaces.MultiDiscrete([2, 2])), action_names=names)
    assert interface.parse(Completion('{"action": "right, open"}'), None).action.tolist() == [1, 0]


def test_several_actions_a_step():
    interface = Interface.for_env(CountingEnv(), max_actions=3, action_names=("go", "stay"))
    parsed = interface.parse(Completion('{"action": "go, stay, go"}'), None)
    assert interface.moves(parsed.action) == (0, 1, 0)
    assert interface.name_of(1) == "stay" and interface.name_of((0, 1)) == "go, stay"
    assert interface.parse(Completion(interface.write(ExpertMove(1))), None).action == (1,)
    assert interface.constants() == ((0,), (1,))
    too_many = interface.parse(Completion('{"action": "go, stay, go, go"}'), None)
    assert too_many.reason is FailureReason.TOO_MANY_ACTIONS


def test_an_expert_s_own_thought_comes_before_the_written_one():
    interface = Interface.for_env(CountingEnv())
    assert '"thoughts": "I choose 1."' in interface.write(ExpertMove(1))
    assert '"thoughts": "It is hot."' in interface.write(ExpertMove(1, thought="It is hot."))


def test_a_request_carries_the_interface_s_limits():
    interface = Interface.for_env(CountingEnv(), max_new_tokens=7)
    request = interface.request((), None, 3, 0.5)
    assert (request.seed, request.max_new_tokens, request.temperature, request.choice) == (3, 7, 0.5, None)
    assert request.stop is interface.format.stop
    scored = Interface.for_env(CountingEnv(), action_mode="score", thoughts=False)
    assert scored.request((), (1,), 3, 1.0).choice.continuations("") == ['{"action": "1"}']
    assert scored.most_tokens > scored.max_new_tokens


def scored(actions, **options):
    return Interface.for_env(Spaces(PICTURE, actions), action_mode="score", **options)


def test_actions_that_only_info_lists_are_scored_and_refused_where_a_step_lists_none():
    interface = scored(spaces.Discrete(1000), thoughts=False)
    assert interface.most_tokens > interface.max_new_tokens
    mask = np.zeros(1000, np.int8)
    mask[[3, 999]] = 1
    legal = interface.legal_actions({"action_mask": mask})
    words = interface.request((), legal, 0, 1.0).choice.continuations("")
    assert words == ['{"action": "3"}', '{"action": "999"}']
    with pytest.raises(ConfigError, match="cannot be listed"):
        interface.request((), interface.legal_actions({}), 0, 1.0)
    texts = scored(spaces.Text(20), thoughts=False, format="plain")
    legal = texts.legal_actions({"legal_actions": ["gonorth", "look"]})
    assert texts.request((), legal, 0, 1.0).choice.continuations("") == ["gonorth", "look"]


def test_scoring_several_actions_a_step_is_refused_for_what_it_is():
    with pytest.raises(ConfigError, match="set max_actions = 1"):
        scored(spaces.Discrete(3), max_actions=3)


@pytest.mark.parametrize("format", ["json", "plain", "think", "think_observation"])
@pytest.mark.parametrize("names", [("a", "b"), ('"' * 20, "b"), ("<answer>" * 4, "b")])
@pytest.mark.parametrize("thoughts", [True, False])
def test_the_room_for_a_scored_action_holds_what_the_format_writes_around_it(format, names, thoughts):
    interface = scored(spaces.Discrete(2), format=format, action_names=names, thoughts=thoughts)
    written = interface.write(ExpertMove(0, thought="It is so."))
    head = written[: written.rindex("action") + 8] if format == "json" else written[: written.find("<answer>") + 8]
    choice = interface.request((), None, 0, 1.0).choice
    longest = max(choice.continuations(head if choice.head else ""), key=len)
    assert head + longest == written if choice.head else longest == written
    room = interface.most_tokens - interface.max_new_tokens
    assert len(longest.encode()) < room <= len(longest.encode()) + 2  # one more for the end of the turn


def test_numbers_of_an_observation_take_the_given_names():
    cart = gym.make("CartPole-v1")
    text, _ = shown(Interface.for_env(cart, observation_names=("x", "v", "a", "w")), np.zeros(4, np.float32))
    assert "x: 0.00, v: 0.00, a: 0.00, w: 0.00" in text
    with pytest.raises(ConfigError, match="name"):
        Interface.for_env(cart, observation_names=("x", "v"))


@pytest.mark.parametrize("history", [NoHistory(), LastObservations(2), Summary(), Conversation()])
def test_with_the_task_first_all_prompts_begin_with_the_same_words(history):
    env = gym.make("eyas/NumberLine-v0", render_mode="rgb_array")
    begun = []
    for task_first in (True, False):
        interface = Interface.for_env(env, history=history, task_first=task_first)
        images = MemoryImageStore()
        starts = []
        for seed in (1, 2):
            observation, info = env.reset(seed=seed)
            starts.append(interface.render(observation, info, env.render(), images)[0].parts)
        begun.append(starts)
    (first, second), (plain, _) = begun
    assert isinstance(first[0], TextPart) and first[0] == second[0] and isinstance(first[1], ImagePart)
    assert isinstance(plain[0], ImagePart)
    assert sorted(first[0].text.split()) == sorted(plain[1].text.split())
