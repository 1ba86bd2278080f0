"""Words that an environment has for itself, read from real environments and from broken ones."""

from enum import IntEnum

import gymnasium as gym
import minigrid  # noqa: F401
import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

import eyas.envs  # noqa: F401
from eyas.interface.naming import action_names, observation_names, task_text
from eyas.types import TaskDescription


class Toy(gym.Env):
    def __init__(self, actions=None, observations=None):
        self.action_space = actions or spaces.Discrete(2)
        self.observation_space = observations or spaces.Box(-1, 1, (2,))


def documented(docstring, actions=None, observations=None):
    return type("Toy", (Toy,), {"__doc__": docstring})(actions, observations)


# ----------------------------------------------------------------------------------------------- actions


@pytest.mark.parametrize(
    ("env_id", "names"),
    [
        ("CartPole-v1", "push cart to the left | push cart to the right"),
        ("FrozenLake-v1", "move left | move down | move right | move up"),
        ("CliffWalking-v1", "move up | move right | move down | move left"),
        ("Taxi-v4", "move south | move north | move east | move west | pickup passenger | drop off passenger"),
        ("Blackjack-v1", "stick | hit"),
        ("MountainCar-v0", "accelerate to the left | don't accelerate | accelerate to the right"),
        ("Acrobot-v1", " | ".join(f"apply {t} torque to the actuated joint" for t in (-1, 0, 1))),
        ("MiniGrid-Empty-5x5-v0", "left | right | forward | pickup | drop | toggle | done"),
        ("eyas/NumberLine-v0", "- | +"),
    ],
)
def test_real_environments_name_their_actions(env_id, names):
    assert action_names(gym.make(env_id)) == tuple(names.split(" | "))


def test_a_space_that_cannot_be_counted_has_no_names():
    assert action_names(gym.make("Pendulum-v1")) is None


def test_the_best_source_comes_first():
    class Directions(IntEnum):
        DOWN = 1
        GO_UP = 0

    doc = "## Action Space\n- 0: one\n- 1: two"
    env = documented(doc)
    assert action_names(env) == ("one", "two")
    env.Actions = Directions
    assert action_names(env) == ("go up", "down")
    env.action_names = ["noop", "move_left"]
    assert action_names(env) == ("noop", "move left")
    env.get_action_meanings = lambda: ["NOOP", "FIRE"]
    assert action_names(env) == ("noop", "fire")
    env.description = TaskDescription("Play.", ("A", "B"))
    assert action_names(env) == ("A", "B")


def test_a_source_that_does_not_fit_is_passed_over():
    env = documented("## Actions\n* 0 = One (unused).\n* 1 = Two;")

    class Three(IntEnum):
        A, B, C = range(3)

    env.Actions = Three  # one too many
    env.action_names = ["same", "same"]
    env.get_action_meanings = lambda: 1 / 0
    assert action_names(env) == ("one", "two")


def test_a_table_is_read_by_its_name_column():
    table = (
        "### Action Space:\n\n| Num | Name | Action |\n|---|---|---|\n| 0 | left | Turn left |\n| 1 | right | Unused |"
    )
    assert action_names(documented(table)) == ("left", "right")


def test_names_come_from_bases_where_the_class_says_nothing():
    class Base(Toy):
        """A base.

        ## Action Space
        - 0: a
        - 1: b
        """

    class Derived(Base):
        """Only a sentence."""

    assert action_names(Derived()) == ("a", "b")


@pytest.mark.parametrize(
    "doc",
    [
        "- 0: a\n- 1: b",  # under no heading
        "## Observation Space\n- 0: a\n- 1: b",
        "## Action Space\n- 0: a\n- 1: b\n- 2: c",
        "## Action Space\n- 0: a\n- 0: a\n- 1: b",
        "## Action Space\n- 1: a\n- 0: b",
        "## Action Space\n- 0: same\n- 1: Same.",
        "## Action Space\n- 0: (unused)\n- 1: b",
        "## Action Space\n| Num |\n|---|\n| 0 |\n| 1 |",
        "## Action Space\n|",
        "##",
        "",
        None,
    ],
)
def test_names_in_doubt_are_none(doc):
    assert action_names(documented(doc)) in (None, ())


# ----------------------------------------------------------------------------------------------- observations


@pytest.mark.parametrize(
    ("env_id", "names"),
    [
        ("CartPole-v1", "cart position | cart velocity | pole angle | pole angular velocity"),
        ("Pendulum-v1", "x = cos(theta) | y = sin(theta) | angular velocity"),
        ("MountainCar-v0", "position of the car along the x-axis | velocity of the car"),
    ],
)
def test_real_environments_name_their_observations(env_id, names):
    wanted = tuple(names.split(" | "))
    assert observation_names(gym.make(env_id), len(wanted)) == wanted
    assert observation_names(gym.make(env_id), len(wanted) + 1) is None


def test_acrobot_names_six_numbers():
    names = observation_names(gym.make("Acrobot-v1"), 6)
    assert names[0] == "cosine of theta1" and names[5] == "angular velocity of theta2"


def test_a_mujoco_table_is_read():
    doc = """
    ## Observation Space
    | Num | Observation                  | Min  | Max | Name (in corresponding XML file) | Type (Unit) |
    | --- | ---------------------------- | ---- | --- | -------------------------------- | ----------- |
    | 0   | z-coordinate of the torso    | -Inf | Inf | rootz                            | position (m) |
    | 1   | angle of the torso (front)   | -Inf | Inf | rooty                            | angle (rad) |
    | excluded | x-coordinate of the torso | -Inf | Inf | rootx                          | position (m) |
    """
    assert observation_names(documented(doc), 2) == ("z-coordinate of the torso", "angle of the torso")


def test_only_flat_boxes_have_names():
    assert observation_names(gym.make("FrozenLake-v1"), 0) is None
    assert observation_names(documented("", observations=spaces.Box(0, 1, (2, 1))), 2) is None


# ----------------------------------------------------------------------------------------------- the task


@pytest.mark.parametrize(
    ("env_id", "begin"),
    [
        ("FrozenLake-v1", "You play Frozen Lake. The game starts with the player at location [0,0] of"),
        ("CartPole-v1", "You play Cart Pole. This environment corresponds to the version of the cart-pole problem"),
        ("MiniGrid-Empty-5x5-v0", "You play Mini Grid Empty 5x5. This environment is an empty room, and the goal"),
        ("BabyAI-GoToLocal-v0", "You play Baby AI Go To Local. Go to an object, inside a single room"),
        ("CliffWalking-v1", "You play Cliff Walking. The game starts with the player at location [3, 0]"),
    ],
)
def test_real_environments_say_what_they_are_about(env_id, begin):
    text = task_text(gym.make(env_id))
    assert text.startswith(begin)
    assert text.endswith(". Choose the action that earns the most reward.")
    assert len(text) < 400
    assert not any(mark in text for mark in ("](", "**", "`", "\n", "<a", "##"))


def test_an_environment_without_words_has_its_name_alone():
    assert task_text(documented(None)) == "You play Toy. Choose the action that earns the most reward."
    assert task_text(type("ShootBallsEnv", (Toy,), {})()).startswith("You play Shoot Balls. ")


def test_a_sentence_that_is_too_long_is_cut_at_a_word():
    text = task_text(documented("word " * 200))
    assert text == "You play Toy. " + ("word " * 59).strip() + "… Choose the action that earns the most reward."


def test_whole_sentences_are_kept_up_to_the_limit():
    text = task_text(
        documented(f"## Description\n\n![Picture](x.png)\n\nIt is 1.5 m e.g. high. {'B' * 250} b.\n More {'c' * 30}.")
    )
    assert "It is 1.5 m e.g. high. BBB" in text and "More" not in text


# ----------------------------------------------------------------------------------------------- never raises

markup = st.lists(
    st.sampled_from(
        [
            "## Action Space\n",
            "Actions:\n",
            "## Description\n",
            "## Observation Space\n",
            "| Num | Action |\n",
            "|---|\n",
        ]
    )
    | st.sampled_from(["- 0: a\n", "| 0 | b |\n", "| 1\n", "- 1 :\n", "```\n", "[x](", "<a", "\n\n", "#", "|"])
    | st.text(max_size=5)
).map("".join)


@settings(deadline=None, max_examples=200)
@given(markup)
def test_any_docstring_is_read_or_passed_over(doc):
    env = documented(doc)
    names, labels, text = action_names(env), observation_names(env, 2), task_text(env)
    assert names is None or (len(names) == 2 and all(n.strip() for n in names))
    assert labels is None or len(labels) == 2
    assert text.startswith("You play Toy.")


def test_an_environment_that_raises_at_every_look_is_passed_over():
    class Broken(Toy):
        """Broken."""

        action_space = spaces.Discrete(2)
        observation_space = spaces.Box(-1, 1, (2,))

        def __init__(self):
            pass

        def __getattr__(self, name):
            raise RuntimeError(name)

        @property
        def description(self):
            raise RuntimeError("description")

    assert action_names(Broken()) is None
    assert observation_names(Broken(), 2) is None
    assert task_text(Broken()) == "You play Broken. Broken. Choose the action that earns the most reward."


@pytest.mark.parametrize(
    "doc",
    [
        "#" * 50_000,
        "| " * 50_000,
        "## Action Space\n" + "- 0: a\n" * 10_000,
        "[" * 50_000,
        "<a " * 20_000,
        "a(" * 20_000,
    ],
)
def test_hostile_docstrings_take_no_time(doc):
    env = documented(doc)
    assert action_names(env) is None and task_text(env)


def test_names_are_of_the_numbers_asked_for():
    env = documented(
        "## Observation Space\n| Num | Observation |\n|---|---|\n| 0 | a |\n| 1 | b |",
        observations=spaces.Box(0, 1, (2,), np.float32),
    )
    assert observation_names(env, 2) == ("a", "b")
    assert observation_names(env, 1) is None
