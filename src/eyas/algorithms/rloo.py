"""RLOO: Ahmadian et al. 2024, "Back to Basics: Revisiting REINFORCE Style Optimization for Learning from Human Feedback".

The whole trajectory is one action. The baseline of its return is the mean of the other members of its group, which leaves
the gradient unbiased. The KL to the reference is taken off the reward.

What differs: with more than one update an iteration, REINFORCE is off-policy, so the ratio of the trajectory is clipped
as in PPO (as TRL does); before the first update the gradient is that of the paper.
"""

from typing import Literal

from eyas.algorithms import options as of


class RLOOConfig(of.AlgorithmOptions):
    """Leave-one-out advantages with a ratio a trajectory and a KL in the reward."""

    name: Literal["rloo"] = "rloo"
    estimator: of.Estimator = "leave_one_out"
    ratio: of.Ratio = "trajectory"
    kl_coef: of.KLCoef = 0.05
    kl_estimator: of.KLEstimator = "k1"
    kl_in: of.KLIn = "reward"
