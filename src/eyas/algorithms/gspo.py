"""GSPO: Zheng et al. 2025, "Group Sequence Policy Optimization".

The unit of the ratio is that of the reward, a whole trajectory: the exponential of the mean log-ratio of its tokens. A
mean moves little, so the clip is narrow. Clipping takes whole trajectories out, not tokens.

What differs: the sequence of the paper is one answer, here it is the trajectory, whose samples therefore stay together in
a minibatch. With `ratio = "step"` each completion has its own ratio, and minibatches may split trajectories.
"""

from typing import Literal

from eyas.algorithms import options as of


class GSPOConfig(of.AlgorithmOptions):
    """Group-relative advantages with a length-normalised ratio a trajectory."""

    name: Literal["gspo"] = "gspo"
    estimator: of.Estimator = "group_relative"
    loss: of.PolicyLoss = "gspo"
    ratio: of.Ratio = "trajectory"
    clip: of.Clip = 3e-4
    clip_high: of.ClipHigh = 4e-4
