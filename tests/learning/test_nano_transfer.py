"""Fine-tuning from `nano` learns a task that it was not trained on in half the updates that random weights need."""

import eyas
from eyas.algorithms import Supervised
from eyas.config import OptimConfig
from eyas.evaluation.evaluate import play
from eyas.rollouts.actors import ExpertActor
from eyas.rollouts.samples import supervised_samples
from eyas.seeding import Split, generator
from eyas.training.learner import Learner
from eyas.training.optim import Optimizer

MARK, EVERY, MOST = 0.9, 10, 100  # exact match; updates between looks; most updates of nano


def demonstrations(agent, episodes, split):
    task = agent.task("eyas/NumberLine-v0")
    return task, play(task, ExpertActor(), agent.images, 0, range(episodes), split).trajectories


def exact_match(agent, task, steps):
    requests = [task.interface.request(s.messages, s.legal_actions, seed=0, temperature=0.0) for s in steps]
    completions = agent.policy.sample(requests)
    return sum(c.text == s.completion.text for c, s in zip(completions, steps, strict=True)) / len(steps)


def updates_to_mark(name, most):
    """Updates of fine-tuning until held-out steps are written exactly; None where `most` are not enough."""
    agent = eyas.Agent.from_pretrained(name, seed=0)
    policy = agent.policy
    _, shown = demonstrations(agent, 200, Split.DEMONSTRATION)
    task, held_out = demonstrations(agent, 20, Split.VALIDATION)
    steps = [s for t in held_out for s in t.steps][:48]
    samples = [s for t in shown for s in supervised_samples(t, policy.model, agent.images)]
    optim = OptimConfig(lr=1e-3, warmup_steps=20)
    learner = Learner(policy, Supervised(), Optimizer(policy.model, policy.value_head, optim, most))
    for update in range(1, most + 1):
        chosen = generator("sft", update).permutation(len(samples))[:16]
        learner.update([samples[i] for i in chosen])
        if update % EVERY == 0 and exact_match(agent, task, steps) >= MARK:
            return update
    return None


def test_nano_needs_at_most_half_the_updates_of_random_weights():
    pretrained = updates_to_mark("nano", MOST)
    assert pretrained is not None
    assert updates_to_mark("nano-random", 2 * pretrained - 1) is None
