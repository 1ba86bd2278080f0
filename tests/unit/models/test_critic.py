"""Critics: heads and models of their own, values of steps and of tokens, and what the value loss reaches."""

import numpy as np
import pytest
import torch

from eyas.batch import Candidates, SampleStep, TrainingSample
from eyas.build import build_policy
from eyas.config import CriticConfig, ModelConfig, RunConfig
from eyas.errors import CheckpointError, ConfigError
from eyas.models.adapter import EncodedPrompt
from eyas.models.reading import batch_of, read
from eyas.rollouts.images import MemoryImageStore
from helpers import SMALL, picture, prompt, values


def policy_of(of_policy=None, **critic):
    """With values that differ from place to place."""
    config = ModelConfig.model_validate({"options": SMALL} | (of_policy or {}))
    policy = build_policy(config, MemoryImageStore(), critic=CriticConfig.model_validate(critic))
    with torch.random.fork_rng():
        torch.manual_seed(5)
        policy.value_head.layers[-1].weight.data.normal_()
    return policy


def samples(policy):
    """Two of a picture and one of text alone; the second holds two steps, the third a scored action."""
    result = []
    for i, lengths in enumerate(((4,), (3, 2), (2,))):
        hashes = [policy.images.put(picture(i))] if i < 2 else []
        encoded = policy.model.encode(prompt("word " * (1 + 3 * i), *hashes), policy.images)
        ids, steps = encoded.ids, []
        for length in lengths:
            start = len(ids) + (3 if steps else 0)  # what stands between two steps
            ids = np.concatenate([ids, np.arange(300, 300 + start - len(ids) + length)])
            steps.append(SampleStep(start, start + 1, start + length, num_images=len(hashes)))
        if i == 2:
            steps[0].candidates = Candidates((ids[-1:], np.array([310, 311])))
        result.append(TrainingSample(ids, encoded.image_hashes, tuple(steps)))
    return result


def batch_values(policy, todo, shares_prompts=False):
    batch = batch_of(policy.model, policy.images, todo, shares_prompts)
    return policy.batch_values(batch, read(policy.model, policy.images, batch))


CRITICS = [{}, {"kind": "model"}]


@pytest.mark.parametrize("critic", CRITICS)
def test_a_step_s_value_is_read_at_its_last_prompt_token(critic):
    policy = policy_of(**critic)
    todo = samples(policy)
    found = batch_values(policy, todo).tolist()
    texts = [EncodedPrompt(s.ids, s.image_hashes) for s in todo]
    expected = policy.values(texts, [[step.start - 1 for step in s.steps] for s in todo])
    assert found == pytest.approx(np.concatenate(expected).tolist(), abs=1e-5)
    assert len(set(found)) == 4


@pytest.mark.parametrize("critic", CRITICS)
def test_an_element_s_value_is_read_where_it_is_predicted(critic):
    policy = policy_of(level="token", **critic)
    todo = samples(policy)
    of_elements = policy.token_values(todo)
    columns = [
        [start - 1 + k for step in s.steps for start in [step.start] for k in range(step.num_elements)] for s in todo
    ]
    expected = policy.values([EncodedPrompt(s.ids, s.image_hashes) for s in todo], columns)
    assert [len(v) for v in of_elements] == [4, 5, 2]
    for found, wanted in zip(of_elements, expected, strict=True):
        assert found.dtype == np.float32
        assert found.tolist() == pytest.approx(wanted.tolist(), abs=1e-5)
    assert batch_values(policy, todo).tolist() == pytest.approx(np.concatenate(expected).tolist(), abs=1e-5)


@pytest.mark.parametrize("critic", [{"level": "step"}, {"level": "token"}, {"kind": "model", "level": "token"}])
def test_values_do_not_depend_on_whether_prompts_are_shared(critic):
    policy = policy_of(**critic)
    todo = [samples(policy)[0]] * 3
    torch.testing.assert_close(batch_values(policy, todo), batch_values(policy, todo, True), rtol=0, atol=1e-5)


def test_the_value_loss_reaches_what_the_options_say():
    def reached(**critic):
        policy = policy_of(**critic)
        batch_values(policy, samples(policy)).square().sum().backward()
        own = [] if policy.critic.model is None else policy.critic.model.parameters()
        parts = policy.model.parameters(), own, policy.value_head.parameters()
        return [any(p.grad is not None and p.grad.any() for p in part) for part in parts]

    assert reached() == [True, False, True]
    assert reached(stop_gradient=True) == [False, False, True]
    assert reached(kind="model") == [False, True, True]
    assert reached(kind="model", model={"options": SMALL, "freeze": ["vision", "language", "embeddings"]}) == [
        False, False, True,
    ]  # fmt: skip


def test_a_critic_model_is_a_copy_with_weights_of_its_own():
    policy = policy_of(kind="model")
    before = values(policy, [prompt("a")])
    for p in policy.model.parameters():
        p.data.zero_()
    assert values(policy, [prompt("a")]).tolist() == before.tolist()
    assert policy.critic.model.model.config.to_dict() == policy.model.model.config.to_dict()


def test_a_critic_model_may_be_of_another_size_but_not_of_other_tokens():
    policy = policy_of(kind="model", model={"options": SMALL | {"hidden_size": 32, "layers": 1}})
    assert policy.value_head.layers[0].in_features == 32
    assert len(values(policy, [prompt("a"), prompt("b")])) == 2
    policy_of(kind="model", model={"options": SMALL | {"image_mean": 0.5001}})  # each sees pictures in its own way
    with pytest.raises(ConfigError, match=r"critic.model reads other tokens than model"):
        policy_of(kind="model", model={"options": SMALL | {"image_size": 64}})


def test_hidden_layers_are_those_asked_for():
    shapes = [[tuple(p.shape) for p in policy_of(hidden_sizes=s).value_head.parameters()] for s in (None, [], [7, 5])]
    assert shapes == [
        [(64, 64), (64,), (1, 64), (1,)],
        [(1, 64), (1,)],
        [(7, 64), (7,), (5, 7), (5,), (1, 5), (1,)],
    ]


def test_a_head_stays_in_float32_under_autocast():
    policy = policy_of()
    hidden = torch.randn(3, 64)
    plain = policy.critic(hidden)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(policy.critic(hidden), plain)


# ----------------------------------------------------------------------------------------------- saving


@pytest.mark.parametrize("critic", [{}, {"hidden_sizes": [9]}, {"kind": "model"}])
def test_a_critic_is_saved_and_loaded_beside_the_policy(tmp_path, critic):
    policy = policy_of(**critic)
    for p in policy.critic.parameters():
        p.data += 0.01
    policy.save(tmp_path / "saved")
    expected = values(policy, [prompt("a"), prompt("b")]).tolist()
    other = policy_of({"seed": 1}, **critic)
    assert values(other, [prompt("a"), prompt("b")]).tolist() != expected
    other.load_weights(tmp_path / "saved")
    assert values(other, [prompt("a"), prompt("b")]).tolist() == expected
    begun = build_policy(
        ModelConfig(name=str(tmp_path / "saved")), MemoryImageStore(), critic=CriticConfig.model_validate(critic)
    )
    assert values(begun, [prompt("a"), prompt("b")]).tolist() == expected


def test_who_plays_takes_a_head_of_any_shape_and_leaves_a_critic_model_alone(tmp_path):
    policy_of(hidden_sizes=[9]).save(tmp_path / "head")
    policy_of(kind="model").save(tmp_path / "model")
    found = [build_policy(ModelConfig(name=str(tmp_path / n)), MemoryImageStore()) for n in ("head", "model")]
    assert [p.value_head.layers[0].out_features for p in found] == [9, 64]
    assert [p.critic.model for p in found] == [None, None]


def test_a_critic_of_another_kind_than_the_checkpoint_s_begins_anew_and_says_so(tmp_path, caplog):
    policy_of().save(tmp_path / "saved")
    name = ModelConfig(name=str(tmp_path / "saved"))
    policy = build_policy(name, MemoryImageStore(), critic=CriticConfig(kind="model"))
    assert "critic" in caplog.text and "a new one begins" in caplog.text
    assert values(policy, [prompt("a")]).tolist() == [0.0]


def test_a_critic_of_other_layers_is_refused_and_nothing_changes(tmp_path):
    policy_of(hidden_sizes=[9]).save(tmp_path / "saved")
    policy = policy_of()
    before = {n: p.clone() for n, p in policy.model.named_parameters()}
    with pytest.raises(CheckpointError, match="another model"):
        policy.load_weights(tmp_path / "saved")
    assert all(torch.equal(p, before[n]) for n, p in policy.model.named_parameters())


@pytest.mark.parametrize(
    ("critic", "words"),
    [
        ({"model": {}}, r"critic: critic.model does nothing with kind = 'head'"),
        ({"kind": "model", "stop_gradient": True}, r"critic: stop_gradient does nothing with kind = 'model'"),
        ({"kind": "model", "model": {"sampling_dtype": "bfloat16"}}, r"sampling_dtype does nothing: a critic"),
        ({"kind": "model", "model": {"compute_dtype": "bfloat16"}}, r"compute_dtype does nothing: model.compute_dtype"),
        ({"kind": "model", "model": {"dtype": "bfloat16"}}, r"critic.model.dtype = 'bfloat16' loses updates"),
        ({"hiden_sizes": [3]}, r"critic.hiden_sizes: unknown key; did you mean 'hidden_sizes'"),
    ],
)
def test_options_that_do_nothing_are_refused(critic, words):
    run = {"name": "x", "tasks": [{"env": "eyas/NumberLine-v0"}], "stages": [{"kind": "rl", "iterations": 1}]}
    with pytest.raises(ConfigError, match=words):
        RunConfig.model_validate(run | {"critic": critic})


def test_a_critic_of_a_run_without_values_is_refused():
    stages = [{"kind": "collect", "episodes": 1}, {"kind": "sft", "data": "collect", "steps": 1}]
    run = {"name": "x", "tasks": [{"env": "eyas/NumberLine-v0"}], "stages": stages, "critic": {"kind": "model"}}
    with pytest.raises(ConfigError, match="critic: no stage of this run has a use for values"):
        RunConfig.model_validate(run)
