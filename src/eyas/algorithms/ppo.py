"""PPO in the style of RL4VLM: Zhai et al. 2024, "Fine-Tuning Large Vision-Language Models as Decision-Making Agents via RL".

The ratio is that of a whole step: its log-prob is lambda times the sum over the thought tokens plus the sum over the
action tokens. The value is read at the last prompt token; advantages are GAE over environment steps.

What differs from the authors' code, and why: log-probs are of the step's own prompt (theirs used the first step's);
dropout is off while sampling and learning; the action span is found by character offsets, not by token ids; a
truncated or cut episode is bootstrapped. With `ratio = "token"` each token has its own ratio and the step's
advantage, and lambda weighs the thought tokens' losses.
"""

from typing import Literal

from eyas.algorithms import options as of


class PPOConfig(of.AlgorithmOptions):
    """PPO in the style of RL4VLM."""

    name: Literal["ppo"] = "ppo"
    ratio: of.Ratio = "step"
    thought_weight: of.ThoughtWeight = 0.5
    gamma: of.Gamma = 0.9
    normalise_advantages: of.Normalise = True
