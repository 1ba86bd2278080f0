"""Fine-tuned from `nano`, a model reads a game that it was not trained on in half the updates that random weights need."""

import numpy as np

import eyas
from eyas.algorithms.supervised import Supervised
from eyas.config import OptimConfig
from eyas.evaluation.evaluate import play
from eyas.rollouts.actors import ExpertActor
from eyas.rollouts.samples import supervised_samples
from eyas.seeding import Split, generator
from eyas.training.learner import Learner
from eyas.training.optim import Optimizer

MARK, EVERY, MOST = 0.9, 5, 60  # share of the numbers read rightly; updates between looks; most updates of nano


def demonstrations(agent, episodes, split):
    task = agent.task("eyas/NumberLine-v0", jitter=6)
    return task, play(task, ExpertActor(), agent.images, 0, range(episodes), split).trajectories


def share_read(agent, task, steps):
    """Of the numbers in the pictures, those that greedy completions name rightly."""
    requests = [task.interface.request(s.messages, s.legal_actions, seed=0, temperature=0.0) for s in steps]
    answers = [task.interface.parse(c, None) for c in agent.policy.sample(requests)]
    return np.mean([
        getattr(answer, "facts", {}).get(key) == value
        for answer, step in zip(answers, steps, strict=True)
        for key, value in step.facts.items()
    ])  # fmt: skip


def updates_to_mark(name, most):
    """Updates of fine-tuning until the numbers of held-out steps are read; None where `most` are not enough."""
    agent = eyas.Agent.from_pretrained(name, seed=0)
    policy = agent.policy
    _, shown = demonstrations(agent, 300, Split.DEMONSTRATION)
    task, held_out = demonstrations(agent, 20, Split.VALIDATION)
    steps = [s for t in held_out for s in t.steps][:48]
    samples = [s for t in shown for s in supervised_samples(t, policy.model, agent.images)]
    optim = OptimConfig(lr=1e-3, warmup_steps=10)
    learner = Learner(policy, Supervised(), Optimizer(policy.model, policy.value_head, optim, most))
    for update in range(1, most + 1):
        chosen = generator("sft", update).permutation(len(samples))[:32]
        learner.update([samples[i] for i in chosen])
        if update % EVERY == 0 and share_read(agent, task, steps) >= MARK:
            return update
    return None


def test_nano_reads_a_new_game_in_at_most_half_the_updates_of_random_weights():
    pretrained = updates_to_mark("nano", MOST)
    assert pretrained is not None
    assert updates_to_mark("nano-random", 2 * pretrained - 1) is None
