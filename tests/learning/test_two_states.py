"""Every algorithm learns a world of two states whose best policy is known, and does not where the credit is wrong.

In state 0 action 1 pays 0.3 and ends the episode, action 0 pays nothing and leads to state 1; there action 1 pays 1 and
action 0 nothing, and the episode ends. The best policy is 0 and then 1, with return 1; who looks at the next reward only
takes the 0.3. A completion is a thought token, which changes nothing, and an action token. The policy and its critic are
tables, so that the algorithms are tested and nothing else.
"""

import numpy as np
import pytest
import torch

from eyas.algorithms.base import LearnerOutput
from eyas.algorithms.options import GROUPED
from eyas.algorithms.policy_gradient import PolicyGradient
from eyas.algorithms.registry import PAPERS
from eyas.batch import Denominators, SampleStep, TrainingSample
from eyas.collate import collate

EPISODES, GROUP, ITERATIONS, EPOCHS = 32, 4, 40, 2
BEST = (0, 1)


class Tables:
    """Logits (state, position, token) and values (state, position) of completions of two tokens, of two words each."""

    def __init__(self):
        self.logits = torch.zeros(2, 2, 2, requires_grad=True)
        self.values = torch.zeros(2, 2, requires_grad=True)
        self.optimizer = torch.optim.Adam([self.logits, self.values], lr=0.1)

    def __call__(self, batch, algorithm):
        states, positions = batch.input_ids[batch.token_rows, 0], batch.token_columns
        logprobs = self.logits.log_softmax(-1)[states, positions]
        values = self.values[states, positions]
        entropy = -(logprobs.exp() * logprobs).sum(-1) if algorithm.needs_entropy else None
        chosen = logprobs.gather(-1, batch.token_ids[:, None])[:, 0]
        of_steps = self.values[batch.input_ids[batch.step_rows, 0], 0]
        return LearnerOutput(chosen, entropy, of_steps, element_values=values)


def play(tables, rng, number):
    """Samples of one episode, one a step."""
    probabilities, samples, state = tables.logits.detach().softmax(-1).double().numpy(), [], 0
    values = tables.values.detach().numpy()
    while state is not None:
        tokens = [rng.choice(2, p=p / p.sum()) for p in probabilities[state]]
        action = tokens[1]
        reward = (0.3 if action else 0.0) if state == 0 else float(action)
        step = SampleStep(1, 2, 3, reward=reward, value=float(values[state, 0]), anchor=str(state), next_value=0.0)
        sample = TrainingSample(np.array([state, *tokens]), (), (step,), trajectory=number, group=number // GROUP)
        chosen = [np.log(p[t]) for p, t in zip(probabilities[state], tokens)]
        sample.sampling_logprobs = sample.old_logprobs = np.array(chosen, np.float32)
        sample.reference_logprobs = np.full(2, np.log(0.5), np.float32)
        sample.element_values = values[state].copy()
        samples.append(sample)
        state = 1 if state == 0 and action == 0 else None
    for sample in samples:
        sample.steps[0].share = 1 / len(samples)
    return samples


def learn(name, spoil=lambda samples: None, **options):
    """Probability of the best action in each state after training."""
    algorithm, tables, rng = PolicyGradient(PAPERS[name](**options)), Tables(), np.random.default_rng(0)
    for _ in range(ITERATIONS):
        samples = [s for number in range(EPISODES) for s in play(tables, rng, number)]
        algorithm.credit(samples)
        spoil(samples)
        for _ in range(EPOCHS):
            batch = collate(samples, 0)
            loss = algorithm.loss(batch, tables(batch, algorithm), Denominators.of(samples)).total
            tables.optimizer.zero_grad()
            loss.backward()
            tables.optimizer.step()
    return [float(tables.logits.detach().softmax(-1)[state, 1, BEST[state]]) for state in (0, 1)]


def flip(samples):
    for sample in samples:
        sample.steps[0].advantage *= -1
        if sample.element_advantages is not None:
            sample.element_advantages = -sample.element_advantages


FASTER = {"gspo": {"clip": 0.1, "clip_high": 0.1}}  # the paper's clip is for thousands of updates


@pytest.mark.parametrize("name", sorted(PAPERS))
def test_each_algorithm_finds_the_best_policy(name):
    assert min(learn(name, **FASTER.get(name, {}))) > 0.85


@pytest.mark.parametrize("name", sorted(PAPERS))
def test_none_finds_it_with_the_credit_upside_down(name):
    assert min(learn(name, flip, **FASTER.get(name, {}))) < 0.2


@pytest.mark.parametrize("estimator", sorted(set(PAPERS["ppo"].model_fields["estimator"].annotation.__args__)))
def test_each_estimator_finds_it_with_each_loss(estimator):
    for loss in ("clip", "cispo"):
        assert min(learn("ppo", estimator=estimator, loss=loss, ratio="token")) > 0.85


@pytest.mark.parametrize("estimator", ["gae", "token_gae", "bilevel_gae", "monte_carlo", "reinforce_pp"])
def test_who_does_not_look_ahead_takes_the_bait(estimator):
    first, second = learn("ppo", estimator=estimator, ratio="token", gamma=0.0)
    assert first < 0.2 < 0.85 < second


@pytest.mark.parametrize("estimator", sorted(GROUPED))
def test_groups_of_one_teach_nothing(estimator):
    def alone(samples):
        for sample in samples:
            sample.group = sample.trajectory
        PolicyGradient(PAPERS["dapo"](estimator=estimator)).credit(samples)

    assert learn("dapo", alone, estimator=estimator) == [0.5, 0.5]
