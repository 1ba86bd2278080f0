"""Ways through a known game: breadth-first search, and value iteration where chance takes part."""

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import TypeVar

import numpy as np

State = TypeVar("State", bound=Hashable)
Successors = Callable[[State], Iterable[tuple[int, State]]]  # (action, next state) in the order that breaks ties
Transition = tuple[float, int, float, bool]  # probability, next state, reward, terminated


def shortest_path(start: State, successors: Successors[State], is_goal: Callable[[State], bool]) -> list[int] | None:
    """The actions of a shortest way from `start` to a goal; None where there is none, [] where `start` is one.

    Among shortest ways the one whose first actions come first in `successors` is taken.
    """
    came_from: dict[State, tuple[State, int] | None] = {}
    for state, step in _breadth_first(start, successors):
        came_from[state] = step
        if is_goal(state):
            actions = []
            while step is not None:
                actions.append(step[1])
                step = came_from[step[0]]
            return actions[::-1]
    return None


def distances(start: State, successors: Successors[State]) -> dict[State, int]:
    """How many steps each state that can be reached is away from `start`."""
    steps: dict[State, int] = {}
    for state, step in _breadth_first(start, successors):
        steps[state] = 0 if step is None else steps[step[0]] + 1
    return steps


def _breadth_first(start: State, successors: Successors[State]) -> Iterator[tuple[State, tuple[State, int] | None]]:
    """Every state that can be reached, nearest first, with the state and the action that lead to it; None at the start."""
    seen = {start}
    frontier: deque[tuple[State, tuple[State, int] | None]] = deque([(start, None)])
    while frontier:
        state, step = frontier.popleft()
        yield state, step
        for action, following in successors(state):
            if following not in seen:
                seen.add(following)
                frontier.append((following, (state, action)))


def best_actions(transitions: Mapping[int, Mapping[int, Iterable[Transition]]], discount: float = 0.999) -> np.ndarray:
    """The action of highest expected return in each state, int (states,), of the first ones where several are equal.

    `transitions` is the table P of Gymnasium's toy games: state, action → (probability, next state, reward, terminated).
    Value iteration (Bellman 1957); a discount just below 1 prefers the shorter of two ways that are equally good.
    """
    num_actions = max(len(actions) for actions in transitions.values())
    entries = [(s * num_actions + a, *t) for s, actions in transitions.items() for a, ts in actions.items() for t in ts]
    pairs, probabilities, following, rewards, terminated = (np.array(column) for column in zip(*entries, strict=True))
    following, going_on = following.astype(int), discount * (1.0 - terminated)
    num_states = max(transitions) + 1
    values = np.zeros(num_states)
    while True:
        outcomes = probabilities * (rewards + going_on * values[following])
        action_values = np.bincount(pairs, outcomes, num_states * num_actions).reshape(num_states, num_actions)
        change = np.abs(action_values.max(axis=1) - values).max()
        values = action_values.max(axis=1)
        if change < 1e-9:
            return action_values.round(7).argmax(axis=1)
