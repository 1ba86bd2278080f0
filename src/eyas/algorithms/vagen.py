"""Bi-level GAE: Wang et al. 2025, "VAGEN: Reinforcing World Model Reasoning for Multi-Turn VLM Agents".

Credit is assigned twice. Over steps, GAE on the values at each step's last token says what a step was worth; that worth
becomes the reward of this token, and GAE inside the step spreads it over the step's tokens. Needs a critic that looks at
every token (`[critic] level = "token"`).

What differs: a truncated or cut episode is bootstrapped from the critic, where the original takes 0; a value is the one
from which the token was predicted, as everywhere in Eyas. The visual-reasoning reward of the paper is a reward term, not
part of the algorithm.
"""

from typing import Literal

from eyas.algorithms import options as of


class VAGENConfig(of.AlgorithmOptions):
    """Token-level PPO on bi-level advantages."""

    name: Literal["vagen"] = "vagen"
    estimator: of.Estimator = "bilevel_gae"
    gae_lambda: of.Lambda = 1.0
    normalise_advantages: of.Normalise = True
    value_clip: of.ValueClip = 0.5
    kl_coef: of.KLCoef = 0.001
    kl_estimator: of.KLEstimator = "k1"
    kl_in: of.KLIn = "reward"
