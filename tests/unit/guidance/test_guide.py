"""What becomes of corrections: which tokens are cloned, which are kept, how they are drawn, and where an episode ends early."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces

from eyas.algorithms.gtr import GTRConfig
from eyas.algorithms.policy_gradient import PolicyGradient
from eyas.algorithms.supervised import Supervised
from eyas.batch import Denominators
from eyas.config import OptimConfig
from eyas.envs.experts import expert_for
from eyas.guidance.guide import Guide, thought_sample
from eyas.guidance.options import GuidanceConfig
from eyas.interface import Interface
from eyas.models.reading import batch_of
from eyas.rollouts.actors import PolicyActor
from eyas.rollouts.collector import Collector
from eyas.rollouts.samples import annotate, build_samples
from eyas.seeding import Split
from eyas.training.learner import Learner
from eyas.training.optim import Optimizer
from eyas.types import Completion, ExpertMove, StopReason
from helpers import CountingEnv, ScriptedPolicy, always, nano_policy, picture, prompt, step, text_task, trajectory

TEXT = '{"thoughts": "I pull.", "action": "0"}'
HEAD = TEXT.partition('"action"')[0]


class Saying:
    """Corrects every answer to what it is told to say."""

    asks_expert = False

    def __init__(self, *texts):
        self.texts, self.costs = texts, {"corrector_calls_count": 0.0}

    def __call__(self, interface, steps):
        self.costs["corrector_calls_count"] += len(steps)
        return [self.texts[i % len(self.texts)] for i in range(len(steps))]

    def state_dict(self):
        return {"texts": self.texts}

    def load_state_dict(self, state):
        self.texts = state["texts"]


def interface():
    return Interface.for_env(CountingEnv())


def guide_of(policy, *texts, **options):
    return Guide(GuidanceConfig(**options), [text_task(CountingEnv)], policy, Saying(*texts))


def steps_of(policy, count, shows=False):
    shown = [(policy.images.put(picture(i)),) if shows else () for i in range(count)]
    return [
        step(c := Completion(f"own {i}"), interface().parse(c, None), messages=prompt(f"prompt {i}", *shown[i]))
        for i in range(count)
    ]


# ----------------------------------------------------------------------------------------------- what is cloned


def test_the_tokens_before_the_action_are_cloned_and_no_others():
    policy = nano_policy()
    (one,) = steps_of(policy, 1)
    sample = thought_sample(policy.model, policy.images, interface(), one, TEXT)
    (span,) = sample.steps
    encoded = policy.model.encode(one.messages, policy.images)
    assert sample.ids[: span.start].tolist() == encoded.ids.tolist()
    assert span.end == span.action_start == len(sample.ids)
    written = policy.model.decode(sample.ids[span.start : span.end])
    assert HEAD.startswith(written) and "I pull" in written  # a token that straddles belongs to the action
    assert batch_of(policy.model, policy.images, [sample]).is_thought.all()


def test_cloning_has_no_gradient_on_action_tokens():
    """The loss is one number for every action that may follow; the wrong variant clones the whole answer."""
    policy = nano_policy()
    (one,) = steps_of(policy, 1)

    def loss(text):
        sample = thought_sample(policy.model, policy.images, interface(), one, text)
        learner = Learner(policy, Supervised(), Optimizer(policy.model, policy.critic, OptimConfig(), 1))
        batch = batch_of(policy.model, policy.images, [sample])
        output = learner.forward(batch)
        total = learner.algorithm.loss(batch, output, Denominators.of([sample])).total
        return torch.autograd.grad(total, policy.model.parameters(), allow_unused=True)

    first, second = loss(TEXT), loss(TEXT.replace('"0"', '"1"'))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True) if a is not None)
    other = loss(TEXT.replace("pull", "push"))
    assert any(not torch.equal(a, b) for a, b in zip(first, other, strict=True) if a is not None)


def test_an_answer_without_a_thought_or_too_long_for_the_context_is_left_out():
    policy = nano_policy()
    (one,) = steps_of(policy, 1)
    assert thought_sample(policy.model, policy.images, interface(), one, '"action": "0"') is None
    long = f'{{"thoughts": "{"so " * policy.model.context}", "action": "0"}}'
    assert thought_sample(policy.model, policy.images, interface(), one, long) is None


def samples_of(policy, count):
    """Steps that the policy itself wrote, with their credit."""
    task = text_task(lambda: CountingEnv(length=1), max_new_tokens=6)
    played = Collector(PolicyActor(policy), [task], policy.images, 0, Split.TRAIN, count).steps(1)
    samples = build_samples(played, policy.model, policy.images)
    annotate(policy, played, samples)
    PolicyGradient(GTRConfig()).credit(samples)
    return samples


def gradient(policy, samples, cloned, weight, micro_batch_tokens=None):
    optimizer = Optimizer(policy.model, policy.critic, OptimConfig(max_grad_norm=1e9), 1)
    learner = Learner(policy, PolicyGradient(GTRConfig()), optimizer, micro_batch_tokens=micro_batch_tokens)
    cloning = Supervised(weight, "train/cloning_loss")
    learner.cloner = Learner(policy, cloning, optimizer, micro_batch_tokens=micro_batch_tokens)
    found = []
    optimizer.step = lambda: found.extend(p.grad.clone() for p in policy.model.parameters() if p.grad is not None)
    numbers = learner.update(samples, cloned)
    return torch.cat([g.flatten() for g in found]), numbers


def test_each_stream_is_divided_by_what_it_holds_itself():
    """g(both) = g(policy) + weight * g(cloning), whatever the numbers of samples, and the size of a pass."""
    policy = nano_policy()
    guide = guide_of(policy, TEXT, batch_size=8)
    guide.correct([trajectory(steps_of(policy, 8))])
    samples = samples_of(policy, 3)
    of_policy, _ = gradient(policy, samples, (), 1.0)
    for count in (1, 8):
        cloned = list(guide.kept)[:count]
        both, numbers = gradient(policy, samples, cloned, 2.0)
        half, _ = gradient(policy, samples, cloned, 1.0)
        assert torch.allclose(both - of_policy, 2 * (half - of_policy), atol=1e-5)
        assert not torch.allclose(both, of_policy, atol=1e-4)
        batch = batch_of(policy.model, policy.images, cloned)
        learner = Learner(policy, Supervised(), Optimizer(policy.model, policy.critic, OptimConfig(), 1))
        mean = -float(learner.forward(batch).logprobs.detach().mean())
        assert numbers["train/cloning_loss"] == pytest.approx(mean, rel=1e-4)  # unweighted, a mean over its own tokens
        split, _ = gradient(policy, samples, cloned, 2.0, micro_batch_tokens=1)
        assert torch.allclose(both, split, atol=1e-5)


# ----------------------------------------------------------------------------------------------- what is kept


def test_corrections_of_earlier_iterations_are_drawn_too_until_they_are_too_many():
    policy = nano_policy()
    guide = guide_of(policy, TEXT, buffer_size=6, batch_size=6)
    assert guide.draw(0) == []
    guide.correct([trajectory(steps_of(policy, 4))])
    first = [s.ids.tobytes() for s in guide.kept]
    guide.correct([trajectory(steps_of(policy, 4)[2:])])
    assert len(guide.kept) == 6 and [s.ids.tobytes() for s in guide.kept][:4] == first
    guide.correct([trajectory(steps_of(policy, 3))])
    assert len(guide.kept) == 6 and guide.kept[0].ids.tobytes() == first[3]
    assert len({id(s) for s in guide.draw(0)}) == 6  # each once


def test_the_keys_decide_what_is_drawn():
    policy = nano_policy()
    guide = guide_of(policy, TEXT, batch_size=3)
    guide.correct([trajectory(steps_of(policy, 30))])
    drawn = [[id(s) for s in guide.draw(*keys)] for keys in ((1, 2), (1, 2), (1, 3))]
    assert drawn[0] == drawn[1] != drawn[2]
    assert {id(s) for i in range(200) for s in guide.draw(i)} == {id(s) for s in guide.kept}


def test_pictures_outlive_those_of_the_run_and_go_with_their_correction():
    policy = nano_policy()
    guide = guide_of(policy, TEXT, buffer_size=3)
    policy.images.attach(guide.images)
    guide.correct([trajectory(steps_of(policy, 5, shows=True))])
    policy.images.clear()
    assert len(guide.images) == 3
    batch = batch_of(policy.model, policy.images, list(guide.kept))
    learner = Learner(policy, Supervised(), Optimizer(policy.model, policy.critic, OptimConfig(), 1))
    assert torch.isfinite(learner.forward(batch).logprobs).all()


def test_a_state_gives_back_the_same_corrections_and_pictures(tmp_path):
    policy = nano_policy()
    guide = guide_of(policy, TEXT, TEXT.replace("pull", "push it far"), batch_size=4)
    guide.correct([trajectory(steps_of(policy, 9, shows=True))])
    torch.save(guide.state_dict(), tmp_path / "state")
    other = guide_of(policy, "nothing", batch_size=4)
    other.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    for mine, theirs in zip(guide.draw(3), other.draw(3), strict=True):
        assert np.array_equal(mine.ids, theirs.ids) and mine.image_hashes == theirs.image_hashes
        assert mine.steps[0].start == theirs.steps[0].start and mine.steps[0].end == theirs.steps[0].end
        assert np.array_equal(guide.images.get(mine.image_hashes[0]), other.images.get(mine.image_hashes[0]))
    assert other.corrector.texts == guide.corrector.texts
    empty = guide_of(policy, TEXT)
    empty.load_state_dict(guide_of(policy, TEXT).state_dict())
    assert empty.draw(0) == []


def test_what_it_cost_is_logged_beside_what_it_did(caplog):
    policy = nano_policy()
    guide = guide_of(policy, TEXT, None, "own 2", "own 3")
    numbers = guide.correct([trajectory(steps_of(policy, 4))])
    assert {k: v for k, v in numbers.items() if not k.startswith("time")} == {
        "guidance/uncorrected_share": 0.25,
        "guidance/corrected_share": 0.25,
        "guidance/kept_count": 1.0,  # the own texts hold no thought that could be cloned
        "guidance/corrector_calls_count": 4.0,
    }
    assert numbers["time/guidance_s"] > 0
    assert guide.correct([])["guidance/corrector_calls_count"] == 0.0
    assert not caplog.records
    guide_of(policy, None).correct([trajectory(steps_of(policy, 2))])
    assert "no thought was corrected" in caplog.text


# ----------------------------------------------------------------------------------------------- early ends


class Walk(gym.Env):
    """Action 1 leads on for ever; action 0 costs 1, and nothing is won after it."""

    observation_space = spaces.Text(50)
    action_space = spaces.Discrete(2)
    render_mode = None

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.is_lost = False
        return "go", {}

    def step(self, action):
        self.is_lost |= not action
        return "go", -float(not action), False, False, {}


def play(guide, name, asks_expert=True, steps=3):
    task = text_task(Walk)
    object.__setattr__(task, "expert", lambda env: ExpertMove(1, is_lost=env.is_lost))
    actor: ScriptedPolicy = always(name)
    actor.asks_expert = asks_expert  # type: ignore[misc]
    collector = Collector(actor, [task], nano_policy().images, 0, Split.TRAIN, 1)
    collector.early_end = guide.early_end
    return collector.steps(steps)


@pytest.mark.parametrize(
    ("options", "reasons", "terms"),
    [
        ({}, ["cut"], [{"environment": -1.0}] * 3),
        ({"ends_where": ("punished",)}, ["guidance"] * 3, [{"environment": -1.0, "early_end": 0.0}] * 3),
        ({"ends_where": ("lost",)}, ["guidance"] * 3, [{"environment": -1.0, "early_end": -1.0}] * 3),
        (
            {"ends_where": ("lost",), "early_end_reward": -3.0},
            ["guidance"] * 3,
            [{"environment": -1.0, "early_end": -3.0}] * 3,
        ),
        ({"ends_where": ("lost", "punished")}, ["guidance"] * 3, [{"environment": -1.0, "early_end": 0.0}] * 3),
    ],
)
def test_an_episode_ends_where_it_is_lost_or_punished(options, reasons, terms):
    played = play(guide_of(nano_policy(), TEXT, **options), "0")
    assert [str(t.stop_reason) for t in played] == reasons
    assert [dict(s.reward.terms) for t in played for s in t.steps] == terms


def test_a_good_episode_goes_on():
    (played,) = play(guide_of(nano_policy(), TEXT, ends_where=("lost", "punished")), "1")
    assert played.stop_reason is StopReason.CUT and len(played.steps) == 3


def test_an_early_end_is_no_success_and_has_no_value_after_it():
    (played, *_) = play(guide_of(nano_policy(), TEXT, ends_where=("punished",)), "0")
    assert played.success is False and played.final_messages is None
    assert not played.stop_reason.is_bootstrapped


def test_the_expert_of_the_card_games_sees_what_is_lost():
    """The formula is no prefix of any that wins: the third of the ends of GTR."""
    env = gym.make("eyas/EZPoints-v0", mode="text")
    env.reset(seed=0)
    expert = expert_for(env)
    assert expert is not None and not expert(env.unwrapped).is_lost
    env.step(expert(env.unwrapped).action)
    assert not expert(env.unwrapped).is_lost
    env.reset(seed=0)
    env.step(env.unwrapped.rules.action_names.index("*"))  # type: ignore[attr-defined]
    assert expert(env.unwrapped).is_lost
