"""SmolLM2-135M, a model that can really write, goes the same way through sampler and learner as the tiny one."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import eyas
from eyas.algorithms.policy_gradient import PolicyGradient
from eyas.algorithms.supervised import Supervised
from eyas.collate import collate
from eyas.config import OptimConfig, PPOConfig
from eyas.errors import ModelError
from eyas.evaluation.evaluate import play
from eyas.rollouts.actors import ExpertActor, PolicyActor
from eyas.rollouts.samples import annotate, build_samples, supervised_samples
from eyas.seeding import Split
from eyas.training.learner import Learner
from eyas.training.optim import Optimizer
from eyas.types import SampleRequest
from helpers import picture, prompt

ENV = "eyas/NumberLine-v0"
SCRIPT = Path(__file__).parents[2] / "scripts/smollm2.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    spec = importlib.util.spec_from_file_location("smollm2", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    target = tmp_path_factory.mktemp("smollm2")
    module.write(target)
    return target


@pytest.fixture
def agent(folder):
    return eyas.Agent.from_pretrained(folder)


def a_task(agent):
    task = agent.task(ENV, mode="text")
    return replace(task, interface=replace(task.interface, max_new_tokens=24))


def learner(agent, algorithm, lr=1e-5):
    policy = agent.policy
    return Learner(policy, algorithm, Optimizer(policy.model, policy.value_head, OptimConfig(lr=lr), 1))


def episodes(agent, actor, count, split=Split.TRAIN):
    return play(a_task(agent), actor, agent.images, 0, range(count), split).trajectories


def test_it_knows_what_it_was_pretrained_on(agent):
    asked = SampleRequest(prompt("What is the capital of France?"), seed=0, max_new_tokens=16, temperature=0.0)
    assert "Paris" in agent.policy.sample([asked])[0].text


def test_pictures_are_refused(agent):
    with pytest.raises(ModelError, match="takes no images"):
        agent.policy.model.encode(prompt("What do you see?", agent.images.put(picture())), agent.images)


def test_it_plays_and_ppo_begins_at_a_ratio_of_1(agent):
    trajectories = episodes(agent, PolicyActor(agent.policy), 2)
    assert len(trajectories) == 2
    samples = build_samples(trajectories, agent.policy.model, agent.images)[:8]
    kept = [t for i, t in enumerate(trajectories) if i in {s.trajectory for s in samples}]
    algorithm = PolicyGradient(PPOConfig())
    recorded = np.concatenate([s.sampling_logprobs for s in samples])
    with torch.no_grad():
        found = learner(agent, algorithm).forward(collate(samples, agent.policy.model.pad_id)).logprobs.numpy()
    assert np.abs(found - recorded).max() < 1e-4
    annotate(agent.policy, kept, samples)
    algorithm.credit(samples)
    before = agent.policy.model.model.get_output_embeddings().weight.detach().clone()
    numbers = learner(agent, algorithm).update(samples)
    assert numbers["train/kl_k3_sampling_policy"] == pytest.approx(0, abs=1e-6)
    assert not torch.equal(before, agent.policy.model.model.get_output_embeddings().weight)


def test_one_supervised_update_raises_the_likelihood_of_the_demonstrations(agent):
    shown = episodes(agent, ExpertActor(), 4, Split.DEMONSTRATION)
    samples = [s for t in shown for s in supervised_samples(t, agent.policy.model, agent.images)][:8]
    teacher = learner(agent, Supervised(), lr=3e-5)

    def mean_logprob():
        with torch.no_grad():
            return float(teacher.forward(collate(samples, agent.policy.model.pad_id)).logprobs.mean())

    before = mean_logprob()
    teacher.update(samples)
    assert mean_logprob() > before + 0.05
