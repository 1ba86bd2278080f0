"""Whether an action follows from facts that were written down, right or wrong."""

import re
from pathlib import Path

import gymnasium as gym
import pytest

import eyas.envs  # noqa: F401
from eyas.envs import experts_registry
from eyas.envs.experts import expert_for, fact_rule_for

GAMES = {
    "eyas/NumberLine-v0": {"max_position": 9},
    "eyas/EZPoints-v0": {},
    "eyas/Points24-v0": {"face_cards": "rank"},
    "eyas/GeneralPoints-v0": {"num_cards": 3, "target": 12},
    "eyas/Blackjack-v0": {},
}


def made(env_id, **arguments):
    env = gym.make(env_id, mode="text", **arguments)
    rule = fact_rule_for(env)
    assert rule is not None
    return env, rule


def names(env):
    return env.unwrapped.description.action_names


@pytest.mark.parametrize("env_id", GAMES)
def test_the_experts_own_moves_follow_from_the_true_facts(env_id):
    env, rule = made(env_id, **GAMES[env_id])
    expert = expert_for(env)
    assert expert is not None
    for seed in range(3):
        _, info = env.reset(seed=seed)
        is_over = False
        while not is_over:
            action = expert(env.unwrapped).action
            assert rule(info["facts"], action)
            *_, terminated, truncated, info = env.step(action)
            is_over = terminated or truncated


def test_environments_without_a_rule_have_none():
    assert fact_rule_for(gym.make("eyas/Sokoban-v0")) is None
    assert fact_rule_for(gym.make("CartPole-v1")) is None


def test_the_rule_of_the_documentation_is_one(monkeypatch):
    monkeypatch.setattr(experts_registry, "FACT_RULES", {})
    text = (Path(__file__).parents[3] / "docs" / "thought_health.md").read_text()
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict = {"__name__": "reader"}
    exec(block, names)
    rule = fact_rule_for(names["Thermostat"]())
    assert rule is not None and rule({"degrees": "18"}, 1) and not rule({"degrees": "22"}, 1)


def test_number_line_goes_by_what_was_read_and_not_by_where_it_stands():
    env, rule = made("eyas/NumberLine-v0")
    env.reset(seed=0)
    for target, current, right in (("5", "1", 1), ("1", "5", 0)):
        facts = {"target number": target, "current number": current}
        assert rule(facts, right) and not rule(facts, 1 - right)


def test_points_takes_every_token_that_can_still_win():
    env, rule = made("eyas/EZPoints-v0")

    def right(cards, formula):
        facts = {"cards": cards, "current formula": formula}
        return {name for action, name in enumerate(names(env)) if rule(facts, action)}

    assert right("2, 6", "empty") == {"2", "6", "+"}  # a sign does no harm
    assert right("2, 6", "2") == {"*"}
    assert right("2, 10", "10") == {"+"}
    assert right("2, K", "10+") == {"2", "+"}  # a face card counts 10
    assert right("2, 6", "6*2") == {"="}
    assert right("2, 6", "2+") == {"="}  # nothing can win any more


def test_points_takes_every_operator_that_can_win_inside_brackets():
    env, rule = made("eyas/Points24-v0")
    facts = {"cards": "6, A, A, 3", "current formula": "6*(3"}
    right = {name for action, name in enumerate(names(env)) if rule(facts, action)}
    assert right == {"+", "*", "/"}  # 6 * (3 + 1 * 1), 6 * (3 * 1 + 1), 6 * (3 / 1 + 1)


def test_general_points_takes_every_formula_that_is_right_for_the_numbers_that_were_read():
    _, rule = made("eyas/GeneralPoints-v0", num_cards=2, target=12)
    for formula, is_right in (("2+10", True), ("10 + 2 = 12", True), ("2*6", False), ("2*10", False)):
        assert rule({"number": "2, 10"}, formula) is is_right
        assert rule({"number": "2, 10"}, f"2, K: {formula}") is is_right


def test_blackjack_is_basic_strategy_on_what_was_read():
    _, rule = made("eyas/Blackjack-v0")
    stand, hit = 0, 1
    for total, dealer, ace, right in (
        ("16", "6", "no", stand),
        ("16", "K", "no", hit),
        ("18", "A", "yes", hit),
        ("18", "A", "no", stand),
    ):
        facts = {"player sum": total, "dealer card": dealer, "usable ace": ace}
        assert rule(facts, right) and not rule(facts, 1 - right)


@pytest.mark.parametrize(
    ("env_id", "facts"),
    [
        ("eyas/NumberLine-v0", {"target number": "5"}),
        ("eyas/NumberLine-v0", {"target number": "5", "current number": "five"}),
        ("eyas/NumberLine-v0", {"target number": "5", "current number": "5"}),
        ("eyas/EZPoints-v0", {"cards": "2, 6"}),
        ("eyas/EZPoints-v0", {"cards": "2, joker", "current formula": "empty"}),
        ("eyas/EZPoints-v0", {"cards": "2, 6, 4", "current formula": "empty"}),
        ("eyas/EZPoints-v0", {"cards": "2, 6", "current formula": "4"}),  # a number that no card has
        ("eyas/Points24-v0", {"cards": ", ".join("A" * 40), "current formula": "empty"}),  # years of search
        ("eyas/GeneralPoints-v0", {"number": "1, 1, 1, 1"}),  # nothing makes 24 of them
        ("eyas/GeneralPoints-v0", {"number": "12, 2"}),
        ("eyas/Blackjack-v0", {"player sum": "16", "dealer card": "0", "usable ace": "no"}),
        ("eyas/Blackjack-v0", {"player sum": "16", "dealer card": "6", "usable ace": "maybe"}),
    ],
)
def test_facts_that_do_not_say_what_to_play_are_refused(env_id, facts):
    _, rule = made(env_id)
    with pytest.raises((KeyError, ValueError)):
        rule(facts, 0)
