"""The recognition reward, worked by hand."""

import pytest

from eyas.errors import ConfigError
from eyas.interface import Interface
from eyas.rewards.options import RewardsConfig
from eyas.rewards.recognition import RecognitionReward, recognised_share
from eyas.rewards.registry import build_rewards
from eyas.types import FailureReason, ParsedAction, ParseFailure
from helpers import CountingEnv, step, trajectory

KEYS = ("current", "target")


def parsed(**facts):
    return ParsedAction(0, "a", "", facts, 0)


@pytest.mark.parametrize(
    ("parse", "truth", "share"),
    [
        (parsed(current="3", target="5"), {"current": "3", "target": "5"}, 1.0),
        (parsed(current=" 3 ", target="4"), {"current": "3", "target": "5"}, 0.5),
        (parsed(current="3"), {"current": "3", "target": "5"}, 0.5),
        (parsed(current="3"), {"current": "3"}, 1.0),
        (ParseFailure(FailureReason.EMPTY, "", 0), {"current": "3"}, 0.0),
        (parsed(current="3"), {}, None),
    ],
)
def test_share(parse, truth, share):
    assert recognised_share(parse, truth, KEYS) == share


def test_reward_is_one_number_a_step_and_0_where_nothing_is_told():
    env = CountingEnv()
    interface = Interface.for_env(env)
    object.__setattr__(interface.format, "fact_keys", KEYS)
    steps = [
        step(parse=parsed(current="3", target="4"), facts={"current": "3", "target": "5"}),
        step(parse=parsed(current="3"), facts={}),
    ]
    assert RecognitionReward(interface)([trajectory(steps)]) == [[0.5, 0.0]]


def test_a_task_that_asks_for_no_facts_is_refused():
    config = RewardsConfig.model_validate({"recognition": 0.5})
    with pytest.raises(ConfigError, match="asks for no facts: leave it out"):
        build_rewards(config, Interface.for_env(CountingEnv()), lambda _: pytest.fail("nothing is judged"))
