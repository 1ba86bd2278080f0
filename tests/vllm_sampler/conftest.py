"""vLLM really runs: `make test-vllm` makes the environment. Without EYAS_VLLM=1 nothing here is collected."""

import os

import pytest
import torch

from eyas.models.policy import Policy
from eyas.types import SampleRequest
from helpers import prompt
from helpers_vllm import vllm_policy

collect_ignore_glob = [] if os.environ.get("EYAS_VLLM") == "1" else ["test_*.py"]


@pytest.fixture(scope="package")
def engine_policy() -> Policy:
    """One engine serves every test: it takes seconds to start. It starts where no gradients are kept, as in validation."""
    policy = vllm_policy()
    with torch.inference_mode():
        policy.sample([SampleRequest(prompt("Go."), 0, 1)])
    return policy


@pytest.fixture
def policy(engine_policy: Policy) -> Policy:
    """With the weights and the forbidden ids as they were built."""
    fresh = vllm_policy()
    engine_policy.model.model.load_state_dict(fresh.model.model.state_dict())
    engine_policy.model.forbidden_ids = fresh.model.forbidden_ids
    engine_policy.sampler.forget()
    return engine_policy
