"""DAPO: Yu et al. 2025, "DAPO: An Open-Source LLM Reinforcement Learning System at Scale".

GRPO with four changes: the ratio may rise further than it may fall ("clip higher"), every token of the minibatch weighs
alike, groups whose returns are all equal are replaced by new ones before learning ("dynamic sampling"), and there is no
KL to a reference.

What differs: new groups are asked for a fixed number of times (`more_groups`), not until enough are found, so that an
iteration ends; metrics of play count every episode, kept or not. The soft penalty on overlong answers is a reward term,
not part of the algorithm.
"""

from typing import Literal

from eyas.algorithms import options as of


class DAPOConfig(of.AlgorithmOptions):
    """Group-relative advantages, an asymmetric clip, the mean over all tokens, dynamic sampling."""

    name: Literal["dapo"] = "dapo"
    estimator: of.Estimator = "group_relative"
    average: of.Average = "token"
    clip_high: of.ClipHigh = 0.28
    more_groups: of.MoreGroups = 3
