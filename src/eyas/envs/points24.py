"""`eyas/Points24-v0`: make 24 from four cards, one token at a time."""

from eyas.envs.base import check_choice
from eyas.envs.formulas import FormulaRules, is_solvable
from eyas.envs.pointsgame import COUNTS, PointsEnv, describe
from eyas.types import TaskDescription

TARGET = 24


class Points24Env(PointsEnv):
    """
    ## Source
    The rules are those of Points24 in RL4VLM (Zhai et al. 2024, "Fine-Tuning Large Vision-Language Models as
    Decision-Making Agents via Reinforcement Learning"), which does not check whether a deal can be solved:
    `solvable_only=False` is its game. The pictures are our own.

    ## Description
    Four cards lie on the table. Each action writes a number, an operator, a bracket or "=" at the end of a formula. The
    formula wins when it equals 24 and uses each card once.

    ## Action Space
    `Discrete(17)`: 0..9 write "1".."10", 10 "+", 11 "-", 12 "*", 13 "/", 14 "(", 15 ")", 16 "=". With `face_cards="rank"`
    `Discrete(20)`: 0..12 write "1".."13", 13 "+", 14 "-", 15 "*", 16 "/", 17 "(", 18 ")", 19 "=".

    `info["legal_actions"]` is always all of them: a number that no unused card has is a bad move of the game (-1), not an
    impossible one, and operators are never checked.

    ## Observation Space
    `mode="image"`: `Box(0, 255, (300, 300, 3), uint8)`, the cards as 2x2 above and the formula below. `mode="text"`:
    `Text(1, 100)`, the same in words.

    ## Rewards
    - +10: "=" after a formula that equals 24 (exactly, with fractions) and uses all four cards
    - -1: "=" after any other formula; no formula at all, or a division by zero, is a wrong one. Two numbers in a row are not
      joined, and ** and // are not known (the original evaluates the text as Python)
    - -1: a number that no unused card has; one blank, shown as "_", is appended to the formula and means nothing
    - -1: any step when the formula is longer than 20 tokens
    - 0 otherwise

    ## Starting State
    Four ranks, uniform in A..K with replacement, all four drawn again until they can be solved (`solvable_only=True`) and
    hold a face card (`require_face=True`). 73.1 % of deals can be solved with `face_cards="ten"`, 79.2 % with `"rank"`. Suits
    are uniform and mean nothing.

    ## Episode End
    1. Termination: "=".
    2. Termination: a step when the formula is longer than 20 tokens. The limit is punished and visible, so it belongs to
       the task.

    The environment never truncates.

    ## Information
    `facts` ("cards": the ranks as printed, e.g. "2, K, A, 10"; "current formula": the text so far, or "empty"),
    `legal_actions`, and in image mode `observation_text` (the formula as a sentence, for the prompt) at every step. At the
    end `success` (+10 was earned) and `progress` (1 or 0).

    ## Arguments
    ```python
    gym.make("eyas/Points24-v0", mode="image", face_cards="ten", suits="all", solvable_only=True, jitter=0)
    ```

    | Parameter       | Type     | Default   | Description                                                               |
    |-----------------|----------|-----------|---------------------------------------------------------------------------|
    | `mode`          | **str**  | `"image"` | `"image"` or `"text"`: what the observation is                            |
    | `render_mode`   | **str**  | `None`    | `"rgb_array"`: `render()` returns the picture, also in text mode          |
    | `jitter`        | **int**  | `0`       | the drawing is shifted by up to this many pixels in x and y, 0..16        |
    | `face_cards`    | **str**  | `"ten"`   | `"ten"`: J, Q, K count 10; `"rank"`: 11, 12, 13                           |
    | `suits`         | **str**  | `"all"`   | `"all"`, `"black"` or `"red"`                                             |
    | `solvable_only` | **bool** | `True`    | deal only what can be solved                                              |
    | `require_face`  | **bool** | `False`   | deal at least one face card                                               |
    | `background`    | **str**  | `"white"` | `"white"` or `"green"`                                                    |

    The shift is drawn once an episode. A seed gives the same game with every `jitter`, `suits` and `background`.

    ## Version History
    * v0: Initial version
    """

    num_cards = 4

    def __init__(
        self,
        mode: str = "image",
        render_mode: str | None = None,
        jitter: int = 0,
        face_cards: str = "ten",
        suits: str = "all",
        solvable_only: bool = True,
        require_face: bool = False,
        background: str = "white",
    ) -> None:
        super().__init__(mode, render_mode, jitter, face_cards, suits, require_face, background)
        check_choice("solvable_only", solvable_only, (False, True))
        self.solvable_only = solvable_only

    @staticmethod
    def _make_rules(max_number: int) -> FormulaRules:
        return FormulaRules(TARGET, limit=20, max_number=max_number, operators=("+", "-", "*", "/", "(", ")"))

    @property
    def description(self) -> TaskDescription:
        text = (
            f"You play Points24: write a formula that uses each of the four cards once and equals {TARGET}, "
            f"one number, operator or bracket at a time, then =. {COUNTS[self.face_cards]}"
        )
        return describe(text, self.rules)

    def _deal_ranks(self) -> tuple[int, ...]:
        while True:
            ranks = tuple(int(rank) for rank in self.np_random.integers(1, 14, size=4))
            if self._is_wanted(ranks):
                return ranks

    def _is_wanted(self, ranks: tuple[int, ...]) -> bool:
        if self.require_face and max(ranks) <= 10:
            return False
        return not self.solvable_only or is_solvable(map(self.count, ranks), TARGET)
