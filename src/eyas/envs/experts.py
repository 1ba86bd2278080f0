"""Experts: the best action and the facts that a thought about it needs."""

from collections.abc import Callable
from typing import Any

from eyas.envs.blackjack import HIT, STAND, BlackjackEnv, hand_sum, has_usable_ace
from eyas.envs.formulas import END, complete
from eyas.envs.numberline import NumberLineEnv
from eyas.envs.pointsgame import PointsEnv
from eyas.types import Expert, ExpertMove

EXPERTS: dict[type, Expert] = {}


def register_expert(env_class: type) -> Callable[[Expert], Expert]:
    """Decorator: makes a function the expert of an environment class and of its subclasses."""

    def register(expert: Expert) -> Expert:
        EXPERTS[env_class] = expert
        return expert

    return register


def expert_for(env: Any) -> Expert | None:
    """The expert of an environment, wrapped or not; it is called with `env.unwrapped`. None where there is none."""
    return next((EXPERTS[c] for c in type(env.unwrapped).__mro__ if c in EXPERTS), None)


@register_expert(NumberLineEnv)
def number_line_expert(env: NumberLineEnv) -> ExpertMove:
    """Moves towards the target."""
    return ExpertMove(int(env.target > env.current), env.facts)


@register_expert(PointsEnv)
def points_expert(env: PointsEnv) -> ExpertMove:
    """Follows an exact plan from any state; the whole formula that it aims at is the fact "plan".

    Where nothing can win any more it plays "=": every end then costs the same -1, and no other step can earn anything, so
    this ends the episode soonest without a further loss.
    """
    names, rest = env.rules.action_names, complete(env.rules, env.numbers, env.formula)
    if rest is None:
        return ExpertMove(names.index(END), env.facts)
    plan = "".join((*env.formula, *rest, END))
    return ExpertMove(names.index(rest[0] if rest else END), env.facts | {"plan": plan})


@register_expert(BlackjackEnv)
def blackjack_expert(env: BlackjackEnv) -> ExpertMove:
    """Basic strategy: the best return against an infinite deck and a dealer who stands on every 17."""
    dealer = min(env.dealer[0], 10)
    is_standing = stands(hand_sum(env.player), dealer, has_usable_ace(env.player))
    return ExpertMove(STAND if is_standing else HIT, env.facts)


def stands(player_sum: int, dealer_card: int, usable_ace: bool) -> bool:
    """Whether basic strategy stands; `dealer_card` is 1 (ace) to 10."""
    if usable_ace:
        return player_sum >= 19 or (player_sum == 18 and 2 <= dealer_card <= 8)
    if 12 <= player_sum <= 16:
        return (4 if player_sum == 12 else 2) <= dealer_card <= 6
    return player_sum >= 17
