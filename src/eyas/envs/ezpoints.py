"""`eyas/EZPoints-v0`: make 12 from two cards, one token at a time."""

from eyas.envs.pointsgame import PointsEnv

PRODUCT_NUMBERS = (2, 3, 4, 6)


class EZPointsEnv(PointsEnv):
    """
    ## Source
    The rules are those of EZPoints in RL4VLM (Zhai et al. 2024, "Fine-Tuning Large Vision-Language Models as
    Decision-Making Agents via Reinforcement Learning"). The pictures are our own.

    ## Description
    Two cards lie on the table. Each action writes a number, an operator or "=" at the end of a formula. The formula wins
    when it equals 12 and uses each card once. Every deal can be solved. `PointsEnv` says what holds for observations,
    rewards, ends, information and arguments; the limit is 5 tokens. The random policy succeeds in 0.06 % of episodes, with
    a mean return of -4.18 after 5.6 steps.

    ## Action Space
    `Discrete(13)`: 0..9 write "1".."10", 10 "+", 11 "*", 12 "=". With `face_cards="rank"` `Discrete(16)`: 0..12 write
    "1".."13", 13 "+", 14 "*", 15 "=".

    ## Starting State
    The first card is uniform in 2..K and counts at most 10. The second counts 12 / c with probability 1/2 where the first
    counts c in {2, 3, 4, 6}, otherwise 12 - c. The two are shuffled. With `face_cards="rank"` J and Q count 11 and 12, the
    first card is uniform in 2..Q (a K could not be solved) and the partner of Q is A. With `require_face=True` the first
    card is uniform among the face cards. Suits are uniform and mean nothing.
    """

    num_cards, target, limit = 2, 12, 5
    operators = ("+", "*")
    task = (
        "You play EZPoints: write a formula that uses each of the two cards once and equals 12, "
        "one number or operator at a time, then =."
    )

    def _deal_ranks(self) -> tuple[int, ...]:
        highest = 13 if self.rule == "ten" else 12
        first = int(self.np_random.integers(11 if self.require_face else 2, highest + 1))
        is_product, is_swapped = self.np_random.random(2) < 0.5
        number = self.count(first)
        # 12 has no partner under +, so a Q that counts 12 always gets the A.
        is_product = number == self.target or (is_product and number in PRODUCT_NUMBERS)
        second = self.target // number if is_product else self.target - number
        return (second, first) if is_swapped else (first, second)
