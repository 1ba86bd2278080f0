"""`eyas model check`: whether Eyas drives a model as it was made, in every way that it reads it."""

import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from eyas.build import build_policy
from eyas.checks import model_numbers, model_text, model_training
from eyas.checks.model_probe import Failed, Probe
from eyas.checks.report import Level, Report
from eyas.config import ModelConfig
from eyas.models.policy import Policy
from eyas.rollouts.images import MemoryImageStore

# What fails in one part makes the next ones meaningless: other tokens would be read, or read in another way.
TEXT = {
    "tokens": model_text.check_tokens,
    "picture tokens": model_text.check_pictures,
    "chat template": model_text.check_template,
}
FORWARD = {
    "repeatable": model_numbers.check_repeatable,
    "bare forward": model_numbers.check_bare_forward,
    "positions": model_numbers.check_positions,
    "padding left": model_numbers.check_left_padding,
}
SAMPLED = {
    "never sampled": model_text.check_never_sampled,
    "token identity": model_text.check_token_identity,
    "generate": model_numbers.check_generate,
    "sampler = learner": model_numbers.check_sampler,
    "action scoring": model_numbers.check_scoring,
    "prefix cache": model_numbers.check_prefix_cache,
    "feature cache": model_numbers.check_feature_cache,
    "masks": model_numbers.check_masks,
    "padding right": model_numbers.check_right_padding,
    "merged steps": model_numbers.check_merged_steps,
    "shared prompts": model_numbers.check_shared_prompts,
    "several pictures": model_training.check_several_pictures,
    "value head": model_training.check_value_head,
    "adapters": model_training.check_adapters,
    "save and load": model_training.check_saving,
    "optimisations": model_training.check_optimisations,
    "memory": model_training.check_memory,
}


def check_model(config: str | ModelConfig, on_progress: Callable[[str], None] = lambda told: None) -> Report:
    """Loads a model and checks it, on prompts and pictures of its own making.

    Raises ModelError, ConfigError or CheckpointError where it cannot be loaded: whatever else goes wrong is in the report.
    """
    config = ModelConfig(name=config) if isinstance(config, str) else config
    on_progress(f"loading {config.name}")
    return check_policy(build_policy(config, MemoryImageStore()), config.name, on_progress)


def check_policy(policy: Policy, name: str, on_progress: Callable[[str], None] = lambda told: None) -> Report:
    """The same for a policy that is there. Its weights are as before when this returns."""
    report, probe = Report(name), Probe(policy)
    with _exact_products():
        for part in (TEXT, FORWARD, SAMPLED):
            for line, check in part.items():
                on_progress(line)
                try:
                    report.add(line, check(probe))
                except Failed as failure:
                    report.add(line, str(failure), Level.ERROR)
                except Exception as error:  # of any kind: a foreign model may raise what it likes
                    detail = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
                    report.add(line, detail, Level.ERROR, traceback.format_exc())
            if not report.ok:
                break
    return report


@contextmanager
def _exact_products() -> Iterator[None]:
    """Without TF32, whose products keep 10 bits; and without warnings that the checks themselves provoke."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    level = logging.getLogger("transformers").level
    logging.getLogger("transformers").setLevel(logging.ERROR)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
        logging.getLogger("transformers").setLevel(level)
