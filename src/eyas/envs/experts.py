"""Experts: the best action and the facts that a thought about it needs. Importing this module registers all of them.

Beside some stands a rule on written facts: whether the expert could play an action if they were true.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from gymnasium.envs.toy_text import frozen_lake

from eyas.envs import experts_gymnasium, experts_minigrid  # noqa: F401 (they register theirs)
from eyas.envs.blackjack import HIT, STAND, BlackjackEnv, hand_sum, has_usable_ace
from eyas.envs.experts_registry import EXPERTS, expert_for, fact_rule_for, register_expert, register_fact_rule
from eyas.envs.formulas import END, complete, is_solvable, unused
from eyas.envs.frozenlake import FrozenLakeEnv
from eyas.envs.generalpoints import GeneralPointsEnv, judge
from eyas.envs.numberline import NumberLineEnv
from eyas.envs.pointsgame import EMPTY, PointsEnv
from eyas.envs.rendering import RANKS
from eyas.envs.searching import best_actions
from eyas.envs.sokoban import SokobanEnv
from eyas.types import ExpertMove

__all__ = ["EXPERTS", "expert_for", "fact_rule_for", "register_expert", "register_fact_rule", "stands"]

_RANK_OF = {name: rank for rank, name in enumerate(RANKS) if name}


@register_expert(NumberLineEnv)
def number_line_expert(env: NumberLineEnv) -> ExpertMove:
    """Moves towards the target."""
    return ExpertMove(int(env.target > env.current), env.facts)


@register_fact_rule(NumberLineEnv)
def number_line_rule(env: NumberLineEnv, facts: Mapping[str, str], action: Any) -> bool:
    """Towards the target that was read."""
    target, current = int(facts["target number"]), int(facts["current number"])
    if target == current:
        raise ValueError("no move leads from a number to itself")
    return int(action) == int(target > current)


@register_expert(PointsEnv)
def points_expert(env: PointsEnv) -> ExpertMove:
    """Follows an exact plan from any state; the whole formula that it aims at is the fact "plan".

    Where nothing can win any more it plays "=": every end then costs the same -1, and no other step can earn anything, so
    this ends the episode soonest without a further loss.
    """
    names, rest = env.rules.action_names, complete(env.rules, env.numbers, env.formula)
    if rest is None:
        return ExpertMove(names.index(END), env.facts, is_lost=True)
    plan = "".join((*env.formula, *rest, END))
    return ExpertMove(names.index(rest[0] if rest else END), env.facts | {"plan": plan})


@register_fact_rule(PointsEnv)
def points_rule(env: PointsEnv, facts: Mapping[str, str], action: Any) -> bool:
    """Any token after which the formula that was read can still win; "=" where it has won, or can no more."""
    numbers = tuple(env.count(_RANK_OF[rank.strip()]) for rank in facts["cards"].split(","))
    if len(numbers) != env.num_cards:
        raise ValueError(f"{len(numbers)} cards where {env.num_cards} lie on the table")
    text = facts["current formula"].strip()
    formula = () if text == EMPTY else tuple(re.findall(r"\d+|\S", text))
    left, token = unused(numbers, formula), env.rules.action_names[action]  # ValueError: a number that no card has
    if token == END:
        return env.rules.is_won(numbers, formula) or complete(env.rules, numbers, formula) is None
    if token.isdigit() and int(token) not in left:
        return False
    return complete(env.rules, numbers, (*formula, token)) is not None


@register_expert(GeneralPointsEnv)
def general_points_expert(env: GeneralPointsEnv) -> ExpertMove:
    """Answers with a right formula; with the sum of the cards, which costs least, where there is none."""
    formula = env.solution()
    is_lost = formula is None or env.num_failed == env.num_attempts
    return ExpertMove(env.answer(formula or "+".join(map(str, env.numbers))), env.facts, is_lost=is_lost)


@register_fact_rule(GeneralPointsEnv)
def general_points_rule(env: GeneralPointsEnv, facts: Mapping[str, str], action: Any) -> bool:
    """A formula that is right for the numbers that were read."""
    numbers = tuple(map(int, facts["number"].split(",")))
    if len(numbers) != env.num_cards or not is_solvable(numbers, env.target):
        raise ValueError(f"no formula of {facts['number']} is right")
    return judge(str(action).rpartition(":")[2], numbers, env.target) == "right"


@register_expert(BlackjackEnv)
def blackjack_expert(env: BlackjackEnv) -> ExpertMove:
    """Basic strategy: the best return against an infinite deck and a dealer who stands on every 17."""
    dealer = min(env.dealer[0], 10)
    is_standing = stands(hand_sum(env.player), dealer, has_usable_ace(env.player))
    return ExpertMove(STAND if is_standing else HIT, env.facts)


@register_fact_rule(BlackjackEnv)
def blackjack_rule(env: BlackjackEnv, facts: Mapping[str, str], action: Any) -> bool:
    """Basic strategy on the sum, the card and the ace that were read."""
    usable_ace = {"yes": True, "no": False}[facts["usable ace"].strip()]
    dealer = min(_RANK_OF[facts["dealer card"].strip()], 10)
    return (int(action) == STAND) == stands(int(facts["player sum"]), dealer, usable_ace)


def stands(player_sum: int, dealer_card: int, usable_ace: bool) -> bool:
    """Whether basic strategy stands; `dealer_card` is 1 (ace) to 10."""
    if usable_ace:
        return player_sum >= 19 or (player_sum == 18 and 2 <= dealer_card <= 8)
    if 12 <= player_sum <= 16:
        return (4 if player_sum == 12 else 2) <= dealer_card <= 6
    return player_sum >= 17


@register_expert("gymnasium.envs.toy_text.blackjack:BlackjackEnv")
def blackjack_v1_expert(env: Any) -> ExpertMove:
    """Basic strategy for Gymnasium's Blackjack."""
    total, dealer, usable_ace = hand_sum(env.player), int(env.dealer[0]), has_usable_ace(env.player)
    ace = "with" if usable_ace else "without"
    thought = f"I hold {total} {ace} a usable ace, the dealer shows {RANKS[dealer]}."
    return ExpertMove(STAND if stands(total, dealer, usable_ace) else HIT, thought=thought)


@register_expert(FrozenLakeEnv)
def frozen_lake_expert(env: FrozenLakeEnv) -> ExpertMove:
    """A shortest way, on slippery ice the safest; of several it takes left first, then down, right, up."""
    if env.is_slippery:
        row, column = env.player
        return ExpertMove(_safest_actions(tuple(env.rows))[row * env.size + column], env.facts)
    ways = [(env.steps_to_goal[following], action) for action, following in env.safe_steps(env.player)]
    return ExpertMove(min(ways)[1] if ways else 0, env.facts)


@lru_cache(maxsize=64)
def _safest_actions(rows: tuple[str, ...]) -> tuple[int, ...]:
    lake = frozen_lake.FrozenLakeEnv(desc=list(rows), is_slippery=True)
    return tuple(best_actions(lake.P).tolist())


@register_expert(SokobanEnv)
def sokoban_expert(env: SokobanEnv) -> ExpertMove:
    """A shortest solution; of several the one that goes up first, then down, left, right. Plays 0 where there is none."""
    actions = env.solve()
    return ExpertMove(actions[0] if actions else 0, env.facts, is_lost=not actions)
