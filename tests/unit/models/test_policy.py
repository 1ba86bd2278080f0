"""A policy's values, context check, saving and loading."""

import json

import numpy as np
import pytest
import torch

from eyas.errors import CheckpointError
from eyas.models.policy import POLICY_FILE
from eyas.types import SampleRequest
from helpers import nano_policy, picture, prompt, values


def request(policy, seed=0, temperature=0.0):
    return SampleRequest(prompt("Say something.", policy.images.put(picture())), seed, 12, temperature)


def state(policy):
    return {k: v.clone() for k, v in (policy.model.state_dict() | policy.value_head.state_dict()).items()}


def test_save_and_load_weights(tmp_path):
    a, b = nano_policy(seed=1), nano_policy(seed=2)
    a.version = 7
    a.value_head.layers[2].weight.data.normal_()
    a.save(tmp_path)
    before = b.sample([request(b)])[0].text
    b.load_weights(tmp_path)
    assert b.version == 7
    assert all(torch.equal(v, state(b)[k]) for k, v in state(a).items())
    assert b.sample([request(b)])[0].text == a.sample([request(a)])[0].text != before


def test_stalecache_two_checkpoints_of_one_version_do_not_share_greedy_completions(tmp_path):
    policies = [nano_policy(seed=s) for s in (1, 2)]
    for policy in policies:
        policy.version = 5
        policy.save(tmp_path / str(policy.version + id(policy)))
    reader = nano_policy(seed=3)
    texts = []
    for policy in policies:
        reader.load_weights(tmp_path / str(policy.version + id(policy)))
        texts.append(reader.sample([request(reader)])[0].text)
    assert texts == [p.sample([request(p)])[0].text for p in policies]
    assert texts[0] != texts[1]


def test_another_architecture_is_refused_and_changes_nothing(tmp_path):
    nano_policy(seed=1, hidden_size=32).save(tmp_path / "narrow")
    nano_policy(seed=1, layers=3).save(tmp_path / "deep")
    nano_policy(seed=1, layers=1).save(tmp_path / "flat")
    policy = nano_policy(seed=2)
    before = state(policy)
    for name in ("narrow", "deep", "flat"):
        with pytest.raises(CheckpointError, match="another model"):
            policy.load_weights(tmp_path / name)
        assert all(torch.equal(v, before[k]) for k, v in state(policy).items())
        assert policy.version == 0


def test_what_is_no_policy_is_refused(tmp_path):
    policy = nano_policy()
    with pytest.raises(CheckpointError, match="no readable policy"):
        policy.load_weights(tmp_path)
    policy.save(tmp_path)
    (tmp_path / POLICY_FILE).write_text(json.dumps({}))
    with pytest.raises(CheckpointError, match="no readable policy"):
        policy.load_weights(tmp_path)


def test_values_start_at_0_and_do_not_depend_on_the_batch():
    policy = nano_policy()
    h = policy.images.put(picture())
    prompts = [
        prompt("a", h),
        prompt("a much longer question, is it not?"),
        prompt("b", h),
        prompt("a", h),
        prompt("c"),
    ]
    assert values(policy, prompts).tolist() == [0.0] * 5
    policy.value_head.layers[2].weight.data.normal_()
    together = values(policy, prompts)
    alone = [values(policy, [p])[0] for p in prompts]
    assert together == pytest.approx(alone, abs=1e-5)
    assert together[0] == together[3]
    assert len(np.unique(together.round(4))) == 4


def test_fits_counts_prompt_and_completion():
    policy = nano_policy(context=40)
    message = prompt("word " * 10)
    free = 40 - len(policy.model.encode(message, policy.images).ids)
    assert policy.fits(message, free)
    assert not policy.fits(message, free + 1)
