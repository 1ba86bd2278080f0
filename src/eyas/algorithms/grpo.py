"""GRPO: Shao et al. 2024, "DeepSeekMath"; and Dr. GRPO: Liu et al. 2025, "Understanding R1-Zero-Like Training".

No critic: the baseline of an episode's return is the mean over its group, episodes from the same start. GRPO divides by
the group's standard deviation and averages over the tokens of each trajectory first, so that tokens of short ones weigh
more; Dr. GRPO leaves both out, and divides by a constant number of tokens instead.

What differs: the sequence of the papers is one answer to one question, here it is a trajectory of several steps whose
sampled tokens all share its advantage. Members of a group share environment, arguments and seed, which is checked.
"""

from typing import Literal

from eyas.algorithms import options as of


class GRPOConfig(of.AlgorithmOptions):
    """Group-relative advantages, a ratio a token, every trajectory of the same weight, a KL in the loss."""

    name: Literal["grpo"] = "grpo"
    estimator: of.Estimator = "group_relative"
    average: of.Average = "trajectory"
    kl_coef: of.KLCoef = 0.04


class DrGRPOConfig(of.AlgorithmOptions):
    """GRPO without its two biases: no standard deviation, a constant in place of the length."""

    name: Literal["dr_grpo"] = "dr_grpo"
    estimator: of.Estimator = "group_relative"
    is_std_scaled: of.IsStdScaled = False
    average: of.Average = "constant"
