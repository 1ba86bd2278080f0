"""A reward for the outcome alone leaves wrong thoughts as they are; cloned corrections make them right."""

from dataclasses import replace

import gymnasium as gym
from gymnasium import spaces

from eyas.algorithms.gtr import GTRConfig
from eyas.algorithms.policy_gradient import PolicyGradient
from eyas.algorithms.supervised import Supervised
from eyas.config import OptimConfig
from eyas.evaluation.evaluate import play
from eyas.evaluation.measures import recognition_accuracy
from eyas.guidance.guide import Guide
from eyas.guidance.options import GuidanceConfig
from eyas.rollouts.actors import ExpertActor, PolicyActor
from eyas.rollouts.collector import Collector
from eyas.rollouts.samples import annotate, build_samples, supervised_samples
from eyas.seeding import Split, generator
from eyas.training.learner import Learner
from eyas.training.optim import Optimizer
from eyas.types import ExpertMove, TaskDescription
from helpers import nano_policy, text_task

LAMPS, ARMS = ("red", "blue"), ("left", "right")
OPTIM = OptimConfig(lr=2e-3, schedule="linear", final_lr_share=0.05)


class Lamp(gym.Env):
    """One step: "right" pays 1 whichever lamp is lit, so that the outcome says nothing of what was read."""

    observation_space = spaces.Text(50)
    action_space = spaces.Discrete(2)
    description = TaskDescription("Read the lamp, then choose.", ARMS, ("lamp",), lambda facts, name: "So.")
    render_mode = None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.lamp = LAMPS[int(self.np_random.integers(2))]
        return f"{self.lamp} is lit", {"facts": {"lamp": self.lamp}}

    def step(self, action):
        return "it is over", float(action), True, False, {"success": bool(action), "facts": {"lamp": self.lamp}}


def task_of(expert):
    return replace(text_task(Lamp, max_new_tokens=32), expert=expert)


def prepare():
    """A policy that answers in the format, and writes either lamp and either arm whatever it is shown."""
    policy = nano_policy(seed=0)
    samples = []
    for lamp in LAMPS:
        for arm in (0, 1):
            task = task_of(lambda env, lamp=lamp, arm=arm: ExpertMove(arm, {"lamp": lamp}))
            played = play(task, ExpertActor(), policy.images, 0, range(32), Split.DEMONSTRATION).trajectories
            samples += [s for t in played for s in supervised_samples(t, policy.model, policy.images)]
    learner = Learner(policy, Supervised(), Optimizer(policy.model, policy.value_head, OptimConfig(lr=2e-3), 60))
    for i in range(60):
        learner.update([samples[j] for j in generator("sft", i).permutation(len(samples))[:32]])
    return policy


def reinforce(policy, guidance=None, iterations=14, epochs=4):
    """Share of the facts that are read right, and of the episodes that succeed."""
    task = task_of(lambda env: ExpertMove(1, {"lamp": env.lamp}))
    algorithm = PolicyGradient(GTRConfig())
    optimizer = Optimizer(policy.model, policy.value_head, OPTIM, iterations * epochs)
    learner = Learner(policy, algorithm, optimizer)
    guide = Guide(guidance, [task], policy) if guidance else None
    learner.cloner = Learner(policy, Supervised(4.0, "train/cloning_loss"), optimizer)
    actor = PolicyActor(policy, asks_expert=guide is not None)
    collector = Collector(actor, [task], policy.images, 0, Split.TRAIN, 32)
    for i in range(iterations):
        trajectories = collector.steps(1)
        if guide:
            guide.correct(trajectories)
        samples = build_samples(trajectories, policy.model, policy.images)
        annotate(policy, trajectories, samples)
        algorithm.credit(samples)
        for epoch in range(epochs):
            learner.update(samples, guide.draw(i, epoch) if guide else ())
    played = play(task, PolicyActor(policy), policy.images, 0, range(64)).trajectories
    success = sum(bool(t.success) for t in played) / len(played)
    return recognition_accuracy(played, {0: ("lamp",)}), success


def test_outcome_alone_leaves_the_facts_wrong():
    recognised, success = reinforce(prepare())
    assert recognised < 0.75 and success > 0.8


def test_guidance_makes_the_facts_right_and_the_outcome_is_still_learned():
    recognised, success = reinforce(prepare(), GuidanceConfig(batch_size=32))
    assert recognised > 0.85 and success > 0.8
