"""Blackjack: sums, ends, outcomes and what is shown."""

import pytest

from eyas.envs import rendering
from eyas.envs.blackjack import HIT, STAND, BlackjackEnv, hand_sum, has_usable_ace
from eyas.envs.experts import EXPERTS, expert_for, register_expert, stands
from helpers import CountingEnv


def start(dealer: list[int], player: list[int], next_cards: tuple[int, ...] = ()) -> BlackjackEnv:
    env = BlackjackEnv(mode="text")
    env.reset(seed=0)
    cards = iter(next_cards)
    env.dealer, env.player, env._draw_rank = dealer, player, lambda: next(cards)
    return env


@pytest.mark.parametrize(
    ("ranks", "total", "usable"),
    [([1, 13], 21, True), ([1, 1], 12, True), ([1, 5, 9], 15, False), ([11, 12], 20, False), ([1, 1, 9], 21, True)],
)
def test_sums(ranks, total, usable):
    assert (hand_sum(ranks), has_usable_ace(ranks)) == (total, usable)


@pytest.mark.parametrize(
    ("dealer", "player", "cards", "reward"),
    [
        ([10, 7], [10, 8], (), 1),
        ([10, 8], [10, 8], (), 0),
        ([10, 9], [10, 8], (), -1),
        ([10, 6], [2, 3], (10,), 1),
        ([10, 2], [10, 8], (9,), -1),
        ([1, 6], [10, 8], (), 1),
        ([5, 6, 10], [1, 13], (), 0),
    ],
)
def test_standing(dealer, player, cards, reward):
    env = start(dealer, player, cards)
    _, got, terminated, truncated, info = env.step(STAND)
    assert (got, terminated, truncated) == (reward, True, False)
    assert (info["success"], info["progress"]) == (reward == 1, (reward + 1) / 2)


def test_hitting_goes_on_until_bust():
    env = start([10, 7], [10, 6], (5, 1))
    _, reward, terminated, _, info = env.step(HIT)
    assert (reward, terminated, info["facts"]["player sum"]) == (0.0, False, "21")
    _, reward, terminated, _, info = env.step(HIT)
    assert (reward, terminated, info["success"], info["progress"]) == (-1.0, True, False, 0.0)


def test_the_hole_card_is_hidden_until_the_end():
    env = start([13, 7], [1, 8])
    assert env._words() == "The dealer shows K. Your cards are A, 8."
    assert env.facts == {"player sum": "19", "dealer card": "K", "usable ace": "yes"}
    assert env.step(STAND)[0] == "The dealer has K, 7. Your cards are A, 8."
    image = BlackjackEnv()
    image.reset(seed=0)
    before = image._observation()
    image.dealer[1] = image.dealer[1] % 13 + 1
    assert (image._observation() == before).all()


def test_the_largest_hand_fits_in_picture_and_words():
    env = BlackjackEnv()
    env.reset(seed=0)
    env.player, env.dealer = [1] * 22, [10, 7]
    picture = env._observation()
    margin = rendering.MARGIN
    assert (picture[:margin] == 255).all() and (picture[-margin:] == 255).all()
    assert (picture[:, :margin] == 255).all() and (picture[:, -margin:] == 255).all()
    words = BlackjackEnv(mode="text")
    words.reset(seed=0)
    words.player, words.dealer, words.is_over = [10] * 22, [10] * 10, True
    assert words.observation_space.contains(words._words())


@pytest.mark.parametrize(
    ("player_sum", "dealer", "usable", "expected"),
    [
        (12, 3, False, False),
        (12, 4, False, True),
        (16, 7, False, False),
        (16, 6, False, True),
        (16, 1, False, False),
        (17, 1, False, True),
        (18, 8, True, True),
        (18, 9, True, False),
        (18, 1, True, False),
        (19, 10, True, True),
        (17, 6, True, False),
    ],
)
def test_basic_strategy(player_sum, dealer, usable, expected):
    assert stands(player_sum, dealer, usable) == expected


def test_experts_are_found_by_class():
    assert expert_for(CountingEnv()) is None

    class OwnBlackjack(BlackjackEnv):
        pass

    own = OwnBlackjack(mode="text")
    assert expert_for(own) is EXPERTS[BlackjackEnv]
    register_expert(OwnBlackjack)(expert := EXPERTS[BlackjackEnv].__call__)
    assert expert_for(own) is expert
    del EXPERTS[OwnBlackjack]
