"""GiGPO: Feng et al. 2025, "Group-in-Group Policy Optimization for LLM Agent Training".

GRPO says which episode of a group was good, GiGPO also which step. Steps of a group that met the same observation (the
anchor state) are compared by their discounted return from there on: A = A_episode + omega * A_step, where a step whose
observation nobody else met gets no A_step.

What differs: observations are equal where their pictures are, bit for bit (by content hash); where none is shown, where
their words are. Histories that write the past into the current observation's words make them differ.
"""

from typing import Literal

from eyas.algorithms import options as of


class GiGPOConfig(of.AlgorithmOptions):
    """Group-relative advantages of episodes, and of steps from the same observation."""

    name: Literal["gigpo"] = "gigpo"
    estimator: of.Estimator = "gigpo"
    average: of.Average = "trajectory"
    kl_coef: of.KLCoef = 0.01
