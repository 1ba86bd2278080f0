"""Experts of MiniGrid and BabyAI. MiniGrid is loaded only where one of them plays.

Thoughts name what the expert wants next and where it is, seen from the agent; never the single action.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from eyas.envs.experts_registry import register_expert
from eyas.envs.searching import distances, shortest_path
from eyas.types import ExpertMove

LEFT, RIGHT, FORWARD, PICK_UP, DROP, TOGGLE, DONE = range(7)
DIRECTIONS = ((1, 0), (0, 1), (-1, 0), (0, -1))
MAX_SEARCHES = 500  # of BabyAI's bot for one move: it goes round in circles where a level has no solution
Cell = tuple[int, int]
Walk = tuple[Cell, int, Cell | None, frozenset[Cell]]  # agent, direction, carried key's place, places that were cleared


def where(env: Any, cell: Cell) -> str:
    """Where a cell lies, seen from the agent: "3 ahead, 2 left"."""
    offset = np.subtract(cell, env.agent_pos)
    ahead, right = int(offset @ env.dir_vec), int(offset @ env.right_vec)
    parts = [f"{abs(ahead)} {'ahead' if ahead > 0 else 'behind'}"] if ahead else []
    parts += [f"{abs(right)} {'right' if right > 0 else 'left'}"] if right else []
    return ", ".join(parts) or "here"


def _name(thing: Any) -> str:
    return f"{thing.color} {thing.type}"


# ----------------------------------------------------------------------------------------------- a goal to reach


@register_expert(
    "minigrid.envs.empty:EmptyEnv",
    "minigrid.envs.fourrooms:FourRoomsEnv",
    "minigrid.envs.doorkey:DoorKeyEnv",
    "minigrid.envs.crossing:CrossingEnv",
    "minigrid.envs.lavagap:LavaGapEnv",
    "minigrid.envs.distshift:DistShiftEnv",
    "minigrid.envs.multiroom:MultiRoomEnv",
)
def goal_expert(env: Any) -> ExpertMove:
    """The fewest actions to the green goal, through doors and with their keys; past lava. "done" where no way is left."""
    things = {(i, j): env.grid.get(i, j) for i in range(env.width) for j in range(env.height)}
    things = {cell: thing for cell, thing in things.items() if thing is not None}
    start = (_cell(env.agent_pos), int(env.agent_dir), None, frozenset())
    actions = shortest_path(start, _walks(things, env.carrying), lambda walk: _is_goal(things.get(walk[0])))
    if not actions:
        return ExpertMove(DONE, thought="I see no way to the goal.", is_lost=True)
    return ExpertMove(actions[0], thought=_goal_thought(env, things, actions))


def _cell(position: Any) -> Cell:
    return int(position[0]), int(position[1])


def _is_goal(thing: Any) -> bool:
    return thing is not None and thing.type == "goal"


def _walks(things: dict[Cell, Any], carried: Any) -> Callable[[Walk], Iterator[tuple[int, Walk]]]:
    """What each action does: turn, step, take a key while the hands are empty, open a door."""

    def successors(walk: Walk) -> Iterator[tuple[int, Walk]]:
        at, direction, key_place, cleared = walk
        yield LEFT, (at, (direction - 1) % 4, key_place, cleared)
        yield RIGHT, (at, (direction + 1) % 4, key_place, cleared)
        ahead = (at[0] + DIRECTIONS[direction][0], at[1] + DIRECTIONS[direction][1])
        thing = None if ahead in cleared else things.get(ahead)
        key = carried if key_place is None else things[key_place]
        if thing is None or (thing.can_overlap() and thing.type != "lava"):
            yield FORWARD, (ahead, direction, key_place, cleared)
        elif thing.type == "key" and key is None:
            yield PICK_UP, (at, direction, ahead, cleared | {ahead})
        elif thing.type == "door" and (not thing.is_locked or _fits(key, thing)):
            yield TOGGLE, (at, direction, key_place, cleared | {ahead})

    return successors


def _fits(key: Any, door: Any) -> bool:
    return key is not None and key.type == "key" and key.color == door.color


def _goal_thought(env: Any, things: dict[Cell, Any], actions: list[int]) -> str:
    """The first thing on the way that has to be taken or opened, or else the goal."""
    walk: Walk = (_cell(env.agent_pos), int(env.agent_dir), None, frozenset())
    successors = _walks(things, env.carrying)
    for action in actions:
        if action in (PICK_UP, TOGGLE):
            break
        walk = dict(successors(walk))[action]
    else:
        return f"The way is free, the goal is {where(env, walk[0])}."
    place = (walk[0][0] + DIRECTIONS[walk[1]][0], walk[0][1] + DIRECTIONS[walk[1]][1])
    thing = things[place]
    need = "I need" if thing.type == "key" else "I have to open"
    return f"{need} the {_name(thing)}, it is {where(env, place)}."


# ----------------------------------------------------------------------------------------------- BabyAI


@register_expert("minigrid.envs.babyai.core.roomgrid_level:RoomGridLevel")
def babyai_expert(env: Any) -> ExpertMove:
    """BabyAI's own bot, made afresh from the present state, so that it is right after any moves of others too.

    It knows what lies in the rooms that open doors connect with the agent's. "done" where it finds no plan. Without a memory
    it cannot lay a key down, clear a blocked door and take the key again: BlockedUnlockPickup, UnlockToUnlock and some games
    of UnlockLocalDist, Synth and MiniBossLevel are beyond it, and KeyInBox is beyond the bot itself.
    """
    bot = _fresh_bot(env)
    try:
        action = int(bot.replan())
    except (AssertionError, _Circling):
        return ExpertMove(DONE, thought=f"I see no way to {env.mission}.")
    return ExpertMove(action, thought=_bot_thought(env, bot) if bot.stack else "All is done.")


class _Circling(Exception):
    """The bot goes round in circles."""


def _fresh_bot(env: Any) -> Any:
    from minigrid.utils import baby_ai_bot

    class Bot(baby_ai_bot.BabyAIBot):
        def _process_obs(self) -> None:
            self.vis_mask = _connected(env)

        def _breadth_first_search(self, *arguments: Any, **options: Any) -> Any:
            if self.bfs_counter > MAX_SEARCHES:
                raise _Circling
            return super()._breadth_first_search(*arguments, **options)

    bot = Bot(env)
    bot._process_obs()
    bot.stack.clear()
    todo = _unfinished(env.instrs)
    for instruction in reversed(todo):
        bot._process_instr(instruction)
    if todo and env.carrying is not None:
        _use_hands(env, bot, todo[0], baby_ai_bot)
    return bot


def _unfinished(instruction: Any) -> list[Any]:
    """The instructions that are still to be followed, in order."""
    kind = type(instruction).__name__
    if kind not in ("BeforeInstr", "AndInstr", "AfterInstr"):
        return [instruction]
    parts = [(instruction.a_done, instruction.instr_a), (instruction.b_done, instruction.instr_b)]
    if kind == "AfterInstr":
        parts.reverse()
    return [single for done, part in parts if done != "success" for single in _unfinished(part)]


def _use_hands(env: Any, bot: Any, instruction: Any, bots: Any) -> None:
    """The bot expects empty hands at the start: this tells it what to do with what the agent carries."""
    kind, carried = type(instruction).__name__, env.carrying
    if kind == "PutNextInstr" and any(carried is thing for thing in instruction.desc_move.obj_set):
        del bot.stack[-2:]  # it need not be fetched
        return
    is_needed = carried.type == "key" and any(
        thing is not None and thing.type == "door" and thing.is_locked and thing.color == carried.color
        for thing in env.grid.grid
    )
    if kind in ("PickupInstr", "PutNextInstr") and not is_needed:
        bot.stack += [bots.DropSubgoal(bot), bots.GoNextToSubgoal(bot, bot._find_drop_pos())]


def _connected(env: Any) -> np.ndarray:
    """Every cell that is reached through open doors, whatever lies in the way, and what borders on it; bool (W, H)."""

    def neighbours(cell: Cell) -> Iterator[tuple[int, Cell]]:
        for direction, (x, y) in enumerate(DIRECTIONS):
            following = (cell[0] + x, cell[1] + y)
            thing = env.grid.get(*following)
            is_shut = thing is not None and (thing.type == "wall" or (thing.type == "door" and not thing.is_open))
            if not is_shut:
                yield direction, following

    mask = np.zeros((env.width, env.height), bool)
    for i, j in distances(_cell(env.agent_pos), neighbours):
        mask[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2] = True
    return mask


def _bot_thought(env: Any, bot: Any) -> str:
    subgoal, ahead = bot.stack[-1], env.grid.get(*env.front_pos)
    kind = type(subgoal).__name__
    if kind == "DropSubgoal":
        return f"The {_name(env.carrying)} belongs here."
    if kind == "GoNextToSubgoal":
        cell = _target(bot, subgoal.datum)
        thing = env.grid.get(*cell)
        return f"I go to the {_name(thing) if thing is not None else 'free place'}, it is {where(env, cell)}."
    need = {"PickupSubgoal": "need", "OpenSubgoal": "have to open", "CloseSubgoal": "have to close"}[kind]
    return f"I {need} the {_name(ahead)} in front of me."


def _target(bot: Any, datum: Any) -> Cell:
    if hasattr(datum, "obj_set"):
        return _cell(bot._find_obj_pos(datum)[1])
    return _cell(datum.cur_pos if hasattr(datum, "cur_pos") else datum)
