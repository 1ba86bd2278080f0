"""CISPO: MiniMax 2025, "MiniMax-M1: Scaling Test-Time Compute Efficiently with Lightning Attention".

Where PPO's clip takes a token's gradient away, CISPO clips the weight of the token instead: the policy gradient of every
token stays, weighted by its ratio up to a cap. Rare tokens that turn a thought around keep teaching.

What differs: the cap, 5, is that of ScaleRL (Khatri et al. 2025), as the paper names none; there is no lower bound.
"""

from typing import Literal

from eyas.algorithms import options as of


class CISPOConfig(of.AlgorithmOptions):
    """Group-relative advantages, clipped importance weights, the mean over all tokens."""

    name: Literal["cispo"] = "cispo"
    estimator: of.Estimator = "group_relative"
    loss: of.PolicyLoss = "cispo"
    clip: of.Clip = 1.0  # a ratio never falls further
    clip_high: of.ClipHigh = 4.0
