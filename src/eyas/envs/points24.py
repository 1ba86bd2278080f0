"""`eyas/Points24-v0`: make 24 from four cards, one token at a time."""

from typing import Any

from eyas.envs.base import check_choice
from eyas.envs.pointsgame import PointsEnv


class Points24Env(PointsEnv):
    """
    ## Source
    The rules are those of Points24 in RL4VLM (Zhai et al. 2024, "Fine-Tuning Large Vision-Language Models as
    Decision-Making Agents via Reinforcement Learning"), which does not check whether a deal can be solved:
    `solvable_only=False` is its game. The pictures are our own.

    ## Description
    Four cards lie on the table. Each action writes a number, an operator, a bracket or "=" at the end of a formula. The
    formula wins when it equals 24 and uses each card once. `PointsEnv` says what holds for observations, rewards, ends and
    information; the limit is 20 tokens.

    ## Action Space
    `Discrete(17)`: 0..9 write "1".."10", 10 "+", 11 "-", 12 "*", 13 "/", 14 "(", 15 ")", 16 "=". With `face_cards="rank"`
    `Discrete(20)`: 0..12 write "1".."13", 13 "+", 14 "-", 15 "*", 16 "/", 17 "(", 18 ")", 19 "=".

    ## Starting State
    Four ranks, uniform in A..K with replacement, all four drawn again until they can be solved (`solvable_only=True`) and
    hold a face card (`require_face=True`). 73.1 % of deals can be solved with `face_cards="ten"`, 79.2 % with `"rank"`. Suits
    are uniform and mean nothing.

    ## Arguments
    - `solvable_only` (True): deal only what can be solved
    - those of `PointsEnv`
    """

    num_cards, target, limit = 4, 24, 20
    operators = ("+", "-", "*", "/", "(", ")")
    task = (
        "You play Points24: write a formula that uses each of the four cards once and equals 24, "
        "one number, operator or bracket at a time, then =."
    )

    def __init__(self, solvable_only: bool = True, **options: Any) -> None:
        super().__init__(**options)
        check_choice("solvable_only", solvable_only, (False, True))
        self.solvable_only = solvable_only
