"""REINFORCE++: Hu et al. 2025, "REINFORCE++: Stabilizing Critic-Free Policy Optimization".

No critic and no groups: a token's advantage is the return from it on, less the KL of the tokens that follow, normalised
over all tokens of the iteration. The rest is PPO with a ratio a token.

What differs: an episode may earn a reward at every step, discounted from step to step by gamma (1 in the paper).
"""

from typing import Literal

from eyas.algorithms import options as of


class ReinforcePPConfig(of.AlgorithmOptions):
    """Globally normalised returns with PPO's clip and a KL a token in the reward."""

    name: Literal["reinforce_pp"] = "reinforce_pp"
    estimator: of.Estimator = "reinforce_pp"
    gamma: of.Gamma = 1.0
    normalise_advantages: of.Normalise = True
    kl_coef: of.KLCoef = 0.01
    kl_estimator: of.KLEstimator = "k1"
    kl_in: of.KLIn = "reward"
