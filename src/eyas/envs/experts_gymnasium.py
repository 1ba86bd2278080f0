"""Experts of Gymnasium's own games. Thoughts name what the expert sees and wants, never the single action.

A demonstration may put a random action in the place of the expert's: its thought is then still true.
"""

from math import cos, pi
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from eyas.envs.experts_registry import register_expert
from eyas.envs.searching import best_actions
from eyas.types import ExpertMove

_SOLUTIONS: WeakKeyDictionary[Any, np.ndarray] = WeakKeyDictionary()


def way(rows: float, columns: float) -> str:
    """A displacement on a grid in words: "2 down, 3 right"; "here" for none."""
    parts = [
        f"{abs(n)} {after if n > 0 else before}"
        for n, before, after in ((int(rows), "up", "down"), (int(columns), "left", "right"))
        if n
    ]
    return ", ".join(parts) or "here"


def _side(value: float) -> str:
    return "right" if value > 0 else "left"


def _solve(env: Any) -> int:
    """The best action by the environment's own table of transitions, solved once per environment."""
    if env not in _SOLUTIONS:
        _SOLUTIONS[env] = best_actions(env.P)
    return int(_SOLUTIONS[env][env.s])


@register_expert("gymnasium.envs.toy_text.frozen_lake:FrozenLakeEnv")
def frozen_lake_v1_expert(env: Any) -> ExpertMove:
    """Where the ice is slippery the safest way, else a shortest one."""
    at, goals = divmod(int(env.s), env.ncol), np.argwhere(env.desc == b"G")
    goal = goals[np.abs(goals - at).sum(axis=1).argmin()]
    return ExpertMove(_solve(env), thought=f"The goal is {way(*(goal - at))}, I keep away from the holes.")


@register_expert("gymnasium.envs.toy_text.cliffwalking:CliffWalkingEnv")
def cliff_walking_expert(env: Any) -> ExpertMove:
    """Walks along the cliff: -13 from the start where nothing slips."""
    row, column = divmod(int(env.s), env.shape[1])
    goal = (env.shape[0] - 1, env.shape[1] - 1)
    return ExpertMove(_solve(env), thought=f"The goal is {way(goal[0] - row, goal[1] - column)}, I stay off the cliff.")


@register_expert("gymnasium.envs.toy_text.taxi:TaxiEnv")
def taxi_expert(env: Any) -> ExpertMove:
    """The shortest drive to the passenger and on to the destination."""
    row, column, passenger, destination = env.decode(env.s)
    is_aboard = passenger == len(env.locs)
    target = env.locs[destination if is_aboard else passenger]
    who = "The passenger is aboard, the destination is" if is_aboard else "The passenger waits"
    return ExpertMove(_solve(env), thought=f"{who} {way(target[0] - row, target[1] - column)}.")


@register_expert("gymnasium.envs.classic_control.cartpole:CartPoleEnv")
def cart_pole_expert(env: Any) -> ExpertMove:
    """A linear controller of the pole's angle and speed, with a weak pull of the cart to the middle."""
    position, velocity, angle, turning = (float(v) for v in env.state)
    push = angle + 0.3 * turning + 0.05 * position + 0.1 * velocity
    thought = f"The pole leans {_side(angle)} and turns {_side(turning)}, the cart rolls {_side(velocity)}."
    return ExpertMove(int(push > 0), thought=thought)


def _uphill(env: Any) -> tuple[bool, str]:
    position, velocity = (float(v) for v in env.state)
    motion = f"rolls {_side(velocity)}" if velocity else "stands still"
    return velocity > 0, f"The car at {position:.1f} {motion}, I add to its swing."


@register_expert("gymnasium.envs.classic_control.mountain_car:MountainCarEnv")
def mountain_car_expert(env: Any) -> ExpertMove:
    """Pushes the way that the car rolls."""
    is_right, thought = _uphill(env)
    return ExpertMove(2 if is_right else 0, thought=thought)


@register_expert("gymnasium.envs.classic_control.continuous_mountain_car:Continuous_MountainCarEnv")
def continuous_mountain_car_expert(env: Any) -> ExpertMove:
    """Pushes the way that the car rolls, with full force."""
    is_right, thought = _uphill(env)
    return ExpertMove(np.array([1.0 if is_right else -1.0], np.float32), thought=thought)


@register_expert("gymnasium.envs.classic_control.pendulum:PendulumEnv")
def pendulum_expert(env: Any) -> ExpertMove:
    """Pumps energy until the pendulum can reach the top (Åström and Furuta 2000), holds it there with a PD controller."""
    angle, speed = (float(v) for v in env.state)
    angle = (angle + pi) % (2 * pi) - pi  # 0 is upright
    # a rod: kinetic energy m l² ω² / 6, potential energy m g l cos θ / 2, which at the top, at rest, is all there is
    energy = env.m * env.l**2 * speed**2 / 6 + env.m * env.g * env.l * (cos(angle) - 1) / 2
    if abs(angle) < 0.6:
        torque, need = -(14 * angle + 3 * speed), "I balance it"
    else:
        torque = env.max_torque * (1 if speed >= 0 else -1) * (1 if energy < 0 else -1)
        need = "it needs more swing" if energy < 0 else "it needs less swing"
    torque = min(max(torque, -env.max_torque), env.max_torque)
    turning = "counterclockwise" if speed >= 0 else "clockwise"
    place = f"{abs(angle):.1f} to the {_side(-angle)} of the top"
    thought = f"The pendulum is {place} and turns {turning}, {need}."
    return ExpertMove(np.array([torque], np.float32), thought=thought)


@register_expert("gymnasium.envs.classic_control.acrobot:AcrobotEnv")
def acrobot_expert(env: Any) -> ExpertMove:
    """Turns the joint against the swing of the upper link, which feeds that swing: about -85 a game."""
    speed = float(env.state[2])
    thought = f"The upper link swings {_side(speed)}, the lower one pumps."
    return ExpertMove(2 if speed < 0 else 0, thought=thought)
