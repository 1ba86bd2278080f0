"""`eyas/EZPoints-v0`: make 12 from two cards, one token at a time."""

from eyas.envs.formulas import FormulaRules
from eyas.envs.pointsgame import COUNTS, PointsEnv, describe
from eyas.types import TaskDescription

TARGET = 12
PRODUCT_NUMBERS = (2, 3, 4, 6)


class EZPointsEnv(PointsEnv):
    """
    ## Source
    The rules are those of EZPoints in RL4VLM (Zhai et al. 2024, "Fine-Tuning Large Vision-Language Models as
    Decision-Making Agents via Reinforcement Learning"). The pictures are our own.

    ## Description
    Two cards lie on the table. Each action writes a number, an operator or "=" at the end of a formula. The formula wins
    when it equals 12 and uses each card once. Every deal can be solved.

    ## Action Space
    `Discrete(13)`: 0..9 write "1".."10", 10 "+", 11 "*", 12 "=". With `face_cards="rank"` `Discrete(16)`: 0..12 write
    "1".."13", 13 "+", 14 "*", 15 "=".

    `info["legal_actions"]` is always all of them: a number that no unused card has is a bad move of the game (-1), not an
    impossible one, and operators are never checked. A random legal action is therefore the original's random policy.

    ## Observation Space
    `mode="image"`: `Box(0, 255, (300, 300, 3), uint8)`, the cards above and the formula below. `mode="text"`:
    `Text(1, 100)`, the same in words.

    ## Rewards
    - +10: "=" after a formula that equals 12 (exactly, with fractions) and uses both cards
    - -1: "=" after any other formula; no formula at all, or a division by zero, is a wrong one
    - -1: a number that no unused card has; one blank, shown as "_", is appended to the formula and means nothing
    - -1: any step when the formula is longer than 5 tokens
    - 0 otherwise

    ## Starting State
    The first card is uniform in 2..K and counts at most 10. The second counts 12 / c with probability 1/2 where the first
    counts c in {2, 3, 4, 6}, otherwise 12 - c. The two are shuffled. With `face_cards="rank"` J and Q count 11 and 12, the
    first card is uniform in 2..Q (a K could not be solved) and the partner of Q is A. With `require_face=True` the first
    card is uniform among the face cards. Suits are uniform and mean nothing.

    ## Episode End
    1. Termination: "=".
    2. Termination: a step when the formula is longer than 5 tokens. The limit is punished and visible, so it belongs to the
       task.

    The environment never truncates.

    ## Information
    `facts` ("cards": the ranks as printed, e.g. "2, K"; "current formula": the text so far, or "empty"), `legal_actions`, and
    in image mode `observation_text` (the formula as a sentence, for the prompt) at every step. At the end `success` (+10
    was earned) and `progress` (1 or 0).
    The random policy succeeds in 0.06 % of episodes, with a mean return of -4.18 after 5.6 steps.

    ## Arguments
    ```python
    gym.make("eyas/EZPoints-v0", mode="image", face_cards="ten", suits="all", jitter=0)
    ```

    | Parameter      | Type     | Default   | Description                                                                |
    |----------------|----------|-----------|----------------------------------------------------------------------------|
    | `mode`         | **str**  | `"image"` | `"image"` or `"text"`: what the observation is                             |
    | `render_mode`  | **str**  | `None`    | `"rgb_array"`: `render()` returns the picture, also in text mode           |
    | `jitter`       | **int**  | `0`       | the drawing is shifted by up to this many pixels in x and y, 0..16         |
    | `face_cards`   | **str**  | `"ten"`   | `"ten"`: J, Q, K count 10; `"rank"`: 11, 12, 13                            |
    | `suits`        | **str**  | `"all"`   | `"all"`, `"black"` or `"red"`                                              |
    | `require_face` | **bool** | `False`   | deal at least one face card                                                |
    | `background`   | **str**  | `"white"` | `"white"` or `"green"`                                                     |

    The shift is drawn once an episode. A seed gives the same game with every `jitter`, `suits` and `background`.

    ## Version History
    * v0: Initial version
    """

    num_cards = 2

    def __init__(
        self,
        mode: str = "image",
        render_mode: str | None = None,
        jitter: int = 0,
        face_cards: str = "ten",
        suits: str = "all",
        require_face: bool = False,
        background: str = "white",
    ) -> None:
        super().__init__(mode, render_mode, jitter, face_cards, suits, require_face, background)

    @staticmethod
    def _make_rules(max_number: int) -> FormulaRules:
        return FormulaRules(TARGET, limit=5, max_number=max_number, operators=("+", "*"))

    @property
    def description(self) -> TaskDescription:
        text = (
            f"You play EZPoints: write a formula that uses each of the two cards once and equals {TARGET}, "
            f"one number or operator at a time, then =. {COUNTS[self.face_cards]}"
        )
        return describe(text, self.rules)

    def _deal_ranks(self) -> tuple[int, ...]:
        highest = 13 if self.face_cards == "ten" else 12
        first = int(self.np_random.integers(11 if self.require_face else 2, highest + 1))
        is_product, is_swapped = self.np_random.random(2) < 0.5
        number = self.count(first)
        # 12 has no partner under +, so a Q that counts 12 always gets the A.
        is_product = number == TARGET or (is_product and number in PRODUCT_NUMBERS)
        second = TARGET // number if is_product else TARGET - number
        return (second, first) if is_swapped else (first, second)
