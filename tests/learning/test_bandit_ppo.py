"""PPO learns a contextual bandit whose prompt tells the right arm, and does not where the credit is wrong."""

from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from eyas.algorithms.policy_gradient import PolicyGradient
from eyas.algorithms.supervised import Supervised
from eyas.config import OptimConfig, PPOConfig
from eyas.evaluation.evaluate import evaluation_row, play
from eyas.rollouts.actors import ExpertActor, PolicyActor
from eyas.rollouts.collector import Collector
from eyas.rollouts.samples import annotate, build_samples, supervised_samples
from eyas.seeding import Split, generator
from eyas.training.learner import Learner
from eyas.training.optim import Optimizer
from eyas.types import ExpertMove, TaskDescription
from helpers import nano_policy, text_task

ARMS = ("red", "blue")


class Bandit(gym.Env):
    """One step: the text names the arm that pays 1; the other pays -1."""

    observation_space = spaces.Text(50)
    action_space = spaces.Discrete(2)
    description = TaskDescription("Pull the lamp that is lit.", ARMS)
    render_mode = None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.right = int(self.np_random.integers(2))
        return f"{ARMS[self.right]} is lit", {}

    def step(self, action):
        is_right = action == self.right
        return "it is over", 1.0 if is_right else -1.0, True, False, {"success": bool(is_right)}


def prepare():
    """A policy that has learned to answer, with either arm: each prompt is demonstrated with both."""
    policy = nano_policy(seed=0)
    task = text_task(Bandit, thoughts=False, max_new_tokens=12)
    demonstrations = [
        t
        for arm in (0, 1)
        for t in play(
            replace(task, expert=lambda env, arm=arm: ExpertMove(arm)),
            ExpertActor(),
            policy.images,
            0,
            range(64),
            Split.DEMONSTRATION,
        ).trajectories
    ]
    samples = [s for t in demonstrations for s in supervised_samples(t, policy.model, policy.images)]
    learner = Learner(policy, Supervised(), Optimizer(policy.model, policy.value_head, OptimConfig(lr=2e-3), 60))
    for i in range(60):
        chosen = generator("sft", i).permutation(64)[:16]
        learner.update([samples[j + 64 * arm] for j in chosen for arm in (0, 1)])
    return policy, task


def reinforce(policy, task, spoil=lambda samples: None, iterations=20):
    algorithm = PolicyGradient(PPOConfig())
    learner = Learner(
        policy, algorithm, Optimizer(policy.model, policy.value_head, OptimConfig(lr=5e-4), iterations * 2)
    )
    collector = Collector(PolicyActor(policy), [task], policy.images, 0, Split.TRAIN, 32)
    for _ in range(iterations):
        trajectories = collector.steps(2)
        samples = build_samples(trajectories, policy.model, policy.images)
        annotate(policy, trajectories, samples)
        algorithm.credit(samples)
        spoil(samples)
        for _ in range(2):
            learner.update(samples)


def success(policy, task, temperature=1.0):
    played = play(task, PolicyActor(policy, temperature), policy.images, 0, range(128))
    return evaluation_row("rl", "sample", played, ()).strict_success_rate


def flip(samples):
    for sample in samples:
        sample.steps[0].advantage *= -1


def shuffle(samples):
    advantages = [s.steps[0].advantage for s in samples]
    for sample, i in zip(samples, np.random.default_rng(0).permutation(len(samples))):
        sample.steps[0].advantage = advantages[i]


def test_ppo_learns_which_arm_is_lit():
    policy, task = prepare()
    assert 0.35 < success(policy, task) < 0.65  # where both arms are nearly as likely, greedy would show noise
    reinforce(policy, task)
    assert success(policy, task, temperature=0.0) > 0.9
    assert success(policy, task) > 0.8


@pytest.mark.parametrize("spoil", [flip, shuffle])
def test_ppo_does_not_learn_from_wrong_credit(spoil):
    policy, task = prepare()
    reinforce(policy, task, spoil)
    assert success(policy, task) < 0.7
