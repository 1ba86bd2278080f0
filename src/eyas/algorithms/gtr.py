"""GTR: Wei et al. 2025, "GTR: Guided Thought Reinforcement Prevents Thought Collapse in RL-based VLM Agent Training".

A reward for the outcome alone says nothing of the thought: thoughts become equal, and stop to speak of what is shown. In GTR
a corrector rewrites each thought; the policy learns from PPO, and clones the corrected thoughts at the same time. Every
correction is kept, and those of all iterations are cloned (DAgger). The corrector, the cloning and the early end are
`[stages.guidance]`, which may stand beside any other algorithm too; what is here are the numbers of its PPO.

What differs from the authors' code, and why: the corrector is built on the experts, or any model, and not GPT-4o alone;
thoughts that are right are cloned as they are; each update clones a minibatch, whose loss is the mean over its thought
tokens, and the kept corrections have a limit. A format reward is a term among the others, inside GAE, and repetition is a
reward too and no penalty while sampling, which would make the log-probs of what was sampled wrong (`[tasks.rewards]`
format, repetition). An update that is not finite is refused, not skipped in silence.
"""

from typing import Literal

from eyas.algorithms import options as of


class GTRConfig(of.AlgorithmOptions):
    """PPO in the style of RL4VLM with the smaller clip of GTR; needs `[stages.guidance]`."""

    name: Literal["gtr"] = "gtr"
    ratio: of.Ratio = "step"
    thought_weight: of.ThoughtWeight = 0.5
    gamma: of.Gamma = 0.9
    normalise_advantages: of.Normalise = True
    clip: of.Clip = 0.1
    value_clip: of.ValueClip = 0.1
