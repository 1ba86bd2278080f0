"""What learns: frozen parts, adapters and their targets, 4-bit weights, layers that are computed again."""

import importlib.util

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from eyas.algorithms.supervised import Supervised
from eyas.batch import Denominators, SampleStep, TrainingSample
from eyas.build import build_policy, build_run
from eyas.config import ModelConfig, OptimConfig, RunConfig
from eyas.errors import ConfigError, ModelError
from eyas.models.adapter import VisionLanguageModel
from eyas.models.parameters import choose_parameters, parts
from eyas.models.reading import batch_of, read
from eyas.rollouts.images import MemoryImageStore
from eyas.training.learner import Learner
from eyas.training.optim import Optimizer
from eyas.types import SampleRequest
from helpers import SMALL, nano_policy, picture, prompt

LORA = {"train": "lora", "lora": {"rank": 4, "alpha": 8}}


def policy_of(**options):
    return build_policy(ModelConfig.model_validate({"options": SMALL} | options), MemoryImageStore())


def learner(policy, **options):
    optimizer = Optimizer(policy.model, policy.critic, OptimConfig(**({"lr": 1e-2} | options)), 100)
    return Learner(policy, Supervised(), optimizer)


def samples(policy, count=3):
    """Of a picture each, with equal prompts, so that an update reads them once."""
    encoded = policy.model.encode(prompt("Go on.", policy.images.put(picture())), policy.images)
    start = len(encoded.ids)
    result = []
    for i in range(count):
        ids = np.concatenate([encoded.ids, np.arange(300 + i, 306 + i)])
        span = SampleStep(start, start + 2, start + 6, num_images=1)
        result.append(TrainingSample(ids, encoded.image_hashes, (span,)))
    return result


def weights(policy):
    return {n: p.detach().clone() for n, p in policy.model.model.named_parameters()}


def changed(before, policy):
    return {n for n, p in weights(policy).items() if not torch.equal(p, before[n])}


# ----------------------------------------------------------------------------------------------- frozen parts


@pytest.mark.parametrize(
    ("frozen", "marks"),
    [
        (["vision"], ["vision_model", "connector"]),
        (["language"], ["text_model.layers", "text_model.norm"]),
        (["embeddings"], ["embed_tokens", "lm_head"]),
        (["vision", "embeddings"], ["vision_model", "connector", "embed_tokens", "lm_head"]),
    ],
)
def test_an_update_changes_all_but_the_frozen_parts(frozen, marks):
    policy = policy_of(freeze=frozen)
    before = weights(policy)
    of_learner = learner(policy)
    of_learner.update(samples(policy))
    is_frozen = {n for n in before if any(m in n for m in marks)}
    assert is_frozen
    # a few vision weights have no gradient: the pictures are of one size
    assert not changed(before, policy) & is_frozen
    assert len(changed(before, policy)) >= len(before) - len(is_frozen) - 2
    trained = {id(p) for p in of_learner.optimizer.parameters}
    assert not any(id(p) in trained for n, p in policy.model.model.named_parameters() if n in is_frozen)


def test_every_parameter_is_in_exactly_one_part():
    policy = policy_of()
    found = [p for of_part in parts(policy.model.model).values() for p in of_part]
    assert len({id(p) for p in found}) == len(found) == len(list(policy.model.model.parameters()))


def test_with_everything_frozen_only_the_critic_learns():
    everything = ["vision", "language", "embeddings"]
    policy = policy_of(freeze=everything)
    assert policy.trained_weights() == {}
    stages = [{"kind": "collect", "episodes": 1}, {"kind": "sft", "data": "collect", "steps": 1}]
    plain = {"name": "x", "tasks": [{"env": "eyas/NumberLine-v0"}], "model": {"freeze": everything}, "stages": stages}
    with pytest.raises(ConfigError, match=r"model.freeze leaves nothing for the stage 'sft' to train"):
        build_run(RunConfig.model_validate(plain))
    build_run(RunConfig.model_validate(plain | {"stages": [{"kind": "rl", "iterations": 1}]}))


def test_a_text_only_model_has_no_vision_to_freeze():
    tiny = LlamaConfig(
        vocab_size=64, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = LlamaForCausalLM(tiny)
    with pytest.raises(ModelError, match="has no vision part"):
        choose_parameters(model, ModelConfig(freeze=("vision",)))
    choose_parameters(model, ModelConfig(freeze=("embeddings",)))
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {"model.embed_tokens.weight", "lm_head.weight"}


# ----------------------------------------------------------------------------------------------- adapters


def test_fresh_adapters_change_nothing_and_an_update_changes_only_them():
    full, policy = policy_of(), policy_of(**LORA)
    request = SampleRequest(prompt("Say.", policy.images.put(picture())), 0, 12, 1.0)
    full.images.put(picture())
    assert full.sample([request])[0].text == policy.sample([request])[0].text
    before = weights(policy)
    learner(policy).update(samples(policy))
    first = changed(before, policy)
    assert first
    assert all("lora_B" in n for n in first)  # A has no gradient while B is 0
    learner(policy).update(samples(policy))
    assert all("lora_" in n for n in changed(before, policy))
    assert any("vision_model" in n for n in changed(before, policy))


@pytest.mark.parametrize("seed", [0, 1])
def test_adapters_are_seeded_by_the_model_s_seed(seed):
    a, b = (weights(policy_of(**LORA, seed=s)) for s in (0, seed))
    assert all(torch.equal(v, b[n]) for n, v in a.items() if "lora_A" in n) == (seed == 0)


def test_rank_alpha_and_targets_are_read():
    def names_and_shapes(**lora):
        policy = policy_of(train="lora", lora={"rank": 4, "alpha": 8} | lora)
        return {n: p.shape for n, p in policy.model.model.named_parameters() if p.requires_grad}

    default = names_and_shapes()
    assert all(4 in shape for shape in default.values())
    assert all(2 in shape for shape in names_and_shapes(rank=2).values())
    only = names_and_shapes(targets=["q_proj", "text_model.layers.0.mlp.up_proj"])
    assert {n.split(".lora_")[0].split(".")[-1] for n in only} == {"q_proj", "up_proj"}
    assert sum("up_proj" in n for n in only) == 2  # A and B of one layer
    assert set(only) < set(default)

    def output(alpha):
        policy = policy_of(train="lora", lora={"rank": 4, "alpha": alpha})
        for name, p in policy.model.model.named_parameters():
            if "lora_B" in name:
                p.data.fill_(0.05)
        return policy.values([policy.model.encode(prompt("a"), policy.images)], [[0]]), policy

    policies = [output(alpha)[1] for alpha in (8, 16)]
    first, second = (p.sample([SampleRequest(prompt("a"), 0, 1, 1.0)])[0].sampling_logprobs for p in policies)
    assert not np.allclose(first, second)


def test_embeddings_can_have_adapters_too():
    policy = policy_of(train="lora", lora={"rank": 4, "targets": ["embed_tokens"]})
    before = weights(policy)
    learner(policy).update(samples(policy))
    assert changed(before, policy)
    assert all("embed_tokens.lora_embedding" in n for n in changed(before, policy))


def test_frozen_parts_get_no_adapters():
    policy = policy_of(**LORA, freeze=["vision"])
    trained = policy.trained_weights()
    assert trained
    assert all("text_model" in n for n in trained)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"lora": {"targets": ["q_prj"]}}, r"no layer is called 'q_prj'; known: .*q_proj"),
        ({"freeze": ["embeddings"]}, r"model.freeze = 'embeddings' does nothing: no adapter"),
        ({"freeze": ["vision", "language"]}, r"leaves no layer for an adapter"),
    ],
)
def test_adapters_that_cannot_be_are_said(options, error):
    with pytest.raises(ModelError, match=error):
        policy_of(train="lora", **options)


def test_options_that_do_nothing_are_refused():
    run = {"name": "x", "tasks": [{"env": "eyas/NumberLine-v0"}], "stages": [{"kind": "rl", "iterations": 1}]}
    for wrong, words in [
        ({"model": {"lora": {"rank": 4}}}, r"model: lora does nothing with train = 'full'"),
        ({"model": {"train": "lora", "lora": {"rnk": 4}}}, r"model.lora.rnk: unknown key; did you mean 'rank'"),
        ({"model": {"freeze": ["eyes"]}}, r"model.freeze.0: should be 'vision', 'language' or 'embeddings'"),
        (
            {"model": {"train": "qlora"}, "sampler": {"kind": "vllm"}},
            r"sampler.kind: weights in 4 bits cannot be handed",
        ),
        ({"model": {"sampling_dtype": "bfloat16"}, "sampler": {"kind": "vllm"}}, r"model.sampling_dtype: does nothing"),
    ]:
        with pytest.raises(ConfigError, match=words):
            RunConfig.model_validate(run | wrong)


def test_dropout_adapters_have_none_and_the_gradient_pass_is_what_was_sampled():
    policy = policy_of(**LORA)
    policy.model.train()
    assert not any(m.training for m in policy.model.modules())
    assert not any("Dropout" in type(m).__name__ for n, m in policy.model.named_modules() if "lora" in n)


def test_lorasync_the_base_is_bit_for_bit_as_it_was_after_sampling_and_learning():
    policy = policy_of(**LORA)
    before = weights(policy)
    for i in range(3):
        policy.sample([SampleRequest(prompt("Say."), i, 6, 1.0)])
        learner(policy).update(samples(policy))
    assert all("lora_" in n for n in changed(before, policy))


def test_bfloat16_weights_with_adapters_learn_in_float32_and_without_them_are_refused():
    plain = {"name": "x", "tasks": [{"env": "eyas/NumberLine-v0"}], "stages": [{"kind": "rl", "iterations": 1}]}
    with pytest.raises(ConfigError, match=r"Train with 'float32', with compute_dtype"):
        build_run(RunConfig.model_validate(plain | {"model": {"dtype": "bfloat16"}}))
    run = build_run(RunConfig.model_validate(plain | {"model": {"dtype": "bfloat16", "train": "lora"}}))
    kinds = {(p.requires_grad, p.dtype) for p in run.policy.model.model.parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
    assert learner(run.policy).update(samples(run.policy))["train/nonfinite_updates_count"] == 0


@pytest.mark.parametrize("options", [{}, LORA, {"freeze": ["language"]}])
def test_a_reference_is_the_weights_that_learn_as_they_once_were(options):
    policy = policy_of(**options)
    todo, of_learner = samples(policy), learner(policy)

    def loss():
        with torch.no_grad():
            batch = batch_of(policy.model, policy.images, todo)
            # features that sampling encoded stay for the same version of the weights
            return -read(policy.model, policy.images, batch, policy.version).sum().item()

    for _ in range(2):  # the first changes only one factor of an adapter
        of_learner.update(todo)
    reference, then = policy.trained_weights(), loss()
    of_learner.update(todo)
    now = loss()
    with policy.using(reference):
        assert loss() == then
    assert loss() == now != then
    assert policy.trained_weights().keys() == reference.keys()
    assert all(("lora_" in n) == (options == LORA) for n in reference)


# ----------------------------------------------------------------------------------------------- 4-bit weights


def test_qlora_stores_4_bits_and_learns_adapters_beside_them():
    policy = policy_of(train="qlora", lora={"rank": 4})
    base = policy.model.model.model.text_model.layers[0].mlp.up_proj.base_layer
    assert base.weight.dtype == torch.uint8
    assert base.weight.numel() == base.in_features * base.out_features // 2
    before = weights(policy)
    losses = [learner(policy).update(samples(policy))["train/loss"] for _ in range(5)]
    assert losses[-1] < losses[0]
    assert all("lora_" in n for n in changed(before, policy))


def test_qlora_the_learner_s_logprobs_are_the_sampler_s():
    policy = policy_of(train="qlora", lora={"rank": 4})
    learner(policy).update(samples(policy))
    request = SampleRequest(prompt("Say.", policy.images.put(picture())), 0, 12, 1.0)
    completion = policy.sample([request])[0]
    encoded = policy.model.encode(request.messages, policy.images)
    ids = np.concatenate([encoded.ids, completion.token_ids])
    span = SampleStep(len(encoded.ids), len(encoded.ids), len(ids), num_images=1)
    batch = batch_of(policy.model, policy.images, [TrainingSample(ids, encoded.image_hashes, (span,))])
    found = learner(policy).forward(batch).logprobs.detach().numpy()
    assert np.abs(found - completion.sampling_logprobs).max() < 1e-4


def test_without_bitsandbytes_the_errors_say_what_to_install(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == "bitsandbytes" else find(n, *a))
    with pytest.raises(ConfigError, match=r"qlora' needs the package bitsandbytes: `pip install 'eyas\[quantize\]'`"):
        policy_of(train="qlora")
    with pytest.raises(ConfigError, match=r"adamw_8bit' needs the package bitsandbytes"):
        learner(nano_policy(), optimizer="adamw_8bit")


# ----------------------------------------------------------------------------------------------- memory


def gradients_and_saved_bytes(shares_prompts, **options):
    """Of the weights, of an update's loss, and how much was kept for its backward pass."""
    policy = policy_of(options=SMALL | {"layers": 4}, **options)
    of_learner, todo, nbytes = learner(policy), samples(policy), [0]
    kept = {p.data_ptr() for p in policy.model.parameters()}

    def pack(tensor):
        if tensor.data_ptr() not in kept:
            kept.add(tensor.data_ptr())
            nbytes[0] += tensor.nbytes
        return tensor

    batch = batch_of(policy.model, policy.images, todo, shares_prompts)
    assert (batch.shared is not None) == shares_prompts
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = Supervised().loss(batch, of_learner.forward(batch), Denominators.of(todo)).total
    at_forward = nbytes[0]
    loss.backward()
    return {n: p.grad for n, p in policy.model.named_parameters() if p.grad is not None}, at_forward


@pytest.mark.parametrize("shares_prompts", [False, True])
@pytest.mark.parametrize("train", ["full", "lora"])
def test_layers_that_are_computed_again_give_the_same_gradient_from_less_memory(shares_prompts, train):
    plain, much = gradients_and_saved_bytes(shares_prompts, train=train)
    again, little = gradients_and_saved_bytes(shares_prompts, train=train, gradient_checkpointing=True)
    assert plain.keys() == again.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(again[name], gradient, rtol=1e-5, atol=1e-7)
    assert little < 0.7 * much


def test_layers_are_not_computed_again_where_the_model_samples():
    request = [SampleRequest(prompt("Say."), 0, 12, 1.0)]
    texts = [policy_of(gradient_checkpointing=g).sample(request)[0].text for g in (False, True)]
    assert texts[0] == texts[1]
    assert isinstance(policy_of(gradient_checkpointing=True).model, VisionLanguageModel)
