"""The interface: what it reads from an environment, what it shows, and what text does."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import eyas.envs  # noqa: F401
from eyas.errors import ConfigError, UnsupportedSpace
from eyas.interface import Interface
from eyas.rollouts.images import MemoryImageStore
from eyas.types import Completion, FailureReason, ImagePart, TaskDescription, TextPart
from helpers import CountingEnv, picture


class Spaces(gym.Env):
    """An environment that is only spaces."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, observations, actions=None, render_mode=None, description=None):
        self.observation_space, self.action_space = observations, actions or spaces.Discrete(3)
        self.render_mode, self.description = render_mode, description


PICTURE = spaces.Box(0, 255, (20, 30, 3), np.uint8)


def test_the_picture_comes_from_the_observation_or_from_render():
    assert Interface.for_env(Spaces(PICTURE)).image_source == "observation"
    assert Interface.for_env(Spaces(spaces.Discrete(4), render_mode="rgb_array")).image_source == "render"
    assert Interface.for_env(Spaces(spaces.Box(0, 1, (20, 30, 3)), render_mode="rgb_array")).image_source == "render"
    assert Interface.for_env(Spaces(spaces.Text(9))).image_source is None


def test_what_cannot_be_shown_or_chosen_is_refused_with_advice():
    with pytest.raises(UnsupportedSpace, match='render_mode="rgb_array"'):
        Interface.for_env(Spaces(spaces.Discrete(4)))
    with pytest.raises(UnsupportedSpace, match="not Discrete"):
        Interface.for_env(Spaces(PICTURE, spaces.Box(-1, 1)))
    with pytest.raises(ConfigError, match="choose from json"):
        Interface.for_env(Spaces(PICTURE), format="xml")
    with pytest.raises(ConfigError, match="as many actions as names"):
        Interface.for_env(Spaces(PICTURE, description=TaskDescription("Play.", ("a", "b"))))


def test_a_prompt_holds_picture_task_sentence_and_instruction():
    images, interface = MemoryImageStore(), Interface.for_env(gym.make("eyas/EZPoints-v0"), text="My own words.")
    frame = picture()
    (message,) = interface.render(frame, {"observation_text": "So far: 1+"}, None, images)
    image, text = message.parts
    assert message.role == "user"
    assert isinstance(image, ImagePart) and np.array_equal(images.get(image.image_hash), frame)
    assert isinstance(text, TextPart) and text.text.startswith("My own words. So far: 1+ Answer in JSON: ")


def test_a_text_observation_is_in_the_prompt():
    interface = Interface.for_env(CountingEnv())
    (message,) = interface.render("the door is open", {}, None, MemoryImageStore())
    assert "the door is open" in message.parts[0].text


@pytest.mark.parametrize("bad", [None, picture().astype(float), picture()[..., :1], picture()[:0], picture()[0]])
def test_a_broken_picture_is_a_failure_of_the_environment(bad):
    with pytest.raises(ValueError, match="needed is uint8"):
        Interface.for_env(Spaces(PICTURE)).render(bad, {}, None, MemoryImageStore())


def test_actions_are_those_of_the_space_wherever_it_starts():
    env = Spaces(PICTURE, spaces.Discrete(3, start=5))
    interface = Interface.for_env(env)
    for action in range(5, 8):
        parsed = interface.parse(Completion(interface.write(action, {})), legal_actions=(5, 6, 7))
        assert parsed.action == action
        assert env.action_space.contains(parsed.action)
    illegal = interface.parse(Completion(interface.write(7, {})), legal_actions=(5, 6))
    assert illegal.reason is FailureReason.ILLEGAL_ACTION
    assert interface.format.parse(Completion(interface.write(7, {}))).action == 2  # the wrong variant: an index


def test_legal_actions_are_asked_of_the_request_not_of_the_space():
    interface = Interface.for_env(CountingEnv())
    assert interface.parse(Completion('{"action": "1"}'), None).action == 1
    assert interface.parse(Completion('{"action": "1"}'), (0,)).reason is FailureReason.ILLEGAL_ACTION


def test_a_request_carries_the_interface_s_limits():
    interface = Interface.for_env(CountingEnv(), max_new_tokens=7)
    request = interface.request((), 3, 0.5)
    assert (request.seed, request.max_new_tokens, request.temperature) == (3, 7, 0.5)
    assert request.stop is interface.format.stop
