"""VL-DAC: "Enhancing Vision-Language Model Training with Reinforcement Learning in Synthetic Worlds" (2025).

The two decisions of an agent are taken apart: the ratio is each token's, the value and the advantage are each step's.
Thought and action tokens weigh alike, so there is no lambda to tune. A KL (k3, 0.04) holds the policy to the model that
the stage began with.

The paper's critic learns on its own: its gradient stops before the backbone, and it warms up before the policy moves.
Both are options of the critic (`[critic] stop_gradient = true, warmup_updates = 50`), not of the algorithm.

What differs: gamma and lambda are ours; a truncated or cut episode is bootstrapped.
"""

from typing import Literal

from eyas.algorithms import options as of


class VLDACConfig(of.AlgorithmOptions):
    """Token-level PPO with a value a step and a KL to the stage's first weights."""

    name: Literal["vl_dac"] = "vl_dac"
    gamma: of.Gamma = 0.99
    normalise_advantages: of.Normalise = True
    kl_coef: of.KLCoef = 0.04
