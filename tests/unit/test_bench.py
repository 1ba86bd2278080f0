"""The benchmark measures what it says: both sides do the same work. Speed itself is not tested."""

import json
import math
import sys
import time
from functools import wraps
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import torch

import eyas.bench.overlap
from eyas.bench import GROUP_SIZE, QUICK, RATIOS, format_bench, run_bench
from eyas.bench.iterations import Inside
from eyas.bench.learning import completion_loss, group_update_sides, model_loss, training_samples
from eyas.bench.measure import now_here
from eyas.bench.memory import memory_growth
from eyas.bench.overlap import CPU_SHARE, TimedActor, compare_workers, sampling_seconds, slowed
from eyas.bench.reuse import conversation_sides, converse
from eyas.bench.sampling import (
    bare_generate,
    bare_inputs,
    bare_loop,
    geometric_lengths,
    rollout_sides,
    uniform_lengths,
)
from eyas.bench.workload import bench_policy, bench_tasks, forget, prompts, text_first
from eyas.envs.host import EnvSource
from eyas.envs.pool import WorkerPool
from eyas.models.adapter import VisionLanguageModel
from eyas.models.reading import batch_of
from eyas.rollouts.collector import Collector
from eyas.samplers.in_process import InProcessSampler
from eyas.training import loop
from eyas.training.learner import Learner
from eyas.types import SampleRequest
from helpers import text_task
from helpers_walks import Walk


@pytest.fixture(scope="module")
def result():
    before = VisionLanguageModel.hidden, torch.Tensor.backward, torch.get_num_threads()
    result = run_bench(quick=True)
    assert (VisionLanguageModel.hidden, torch.Tensor.backward, torch.get_num_threads()) == before
    return result


@pytest.fixture
def policy():
    return bench_policy()


@pytest.fixture
def messages(policy):
    return prompts(bench_tasks(), policy.images, 6)


def test_the_result_is_json_with_every_ratio_and_where_it_comes_from(result):
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert set(result["ratios"]) == set(result["spread"]) == set(RATIOS)
    assert {"hardware", "commit", "dirty", "versions", "peak_memory_gib", "memory", "duration_s"} <= set(result)
    assert result["quick"] is True


def test_every_ratio_lies_within_its_spread(result):
    for name, ratio in result["ratios"].items():
        spread = result["spread"][name]
        assert 0 < spread["min"] <= ratio == spread["median"] <= spread["max"] < 20, name
        assert spread["repeats"] >= 2
    assert 0 < result["ratios"]["overhead_share"] < 1
    assert 0 < result["ratios"]["learner_overhead_share"] < 1
    assert 0.1 < result["peak_memory_gib"] < 100


def test_the_sides_did_the_same_work(result):
    counts = result["counts"]
    tokens, samples, steps = QUICK.new_tokens, QUICK.samples, QUICK.prompts * QUICK.conversation_steps
    rolled_out = [QUICK.prompts * tokens * (QUICK.rollout_steps // 2)]
    assert counts["sampler_vs_bare"] == dict.fromkeys(("rollout", "generate", "bare_loop"), rolled_out)
    assert counts["learner_vs_bare"] == {n: [samples] for n in ("learner", "model_loss", "completion_loss")}
    assert counts["conversation_vs_rereading"] == {n: [steps] for n in ("conversation", "rereading", "bare_loop")}
    assert counts["group_sampling_vs_alone"] == {n: [samples * tokens] for n in ("group", "alone", "bare_loop")}
    assert counts["shared_text_vs_alone"] == {n: [QUICK.prompts * tokens] for n in ("shared", "alone", "bare_loop")}
    assert set(map(tuple, counts["group_update_vs_alone"].values())) == {(samples,)}
    for name in ("sampler_vs_lockstep", "sampler_vs_lockstep_geometric"):
        lengths = counts[name]
        assert lengths["sampler"] == lengths["lockstep"] and len(lengths["sampler"]) == 1
    for name, rates in result["rates_per_s"].items():
        assert all(math.isfinite(r) and r > 0 for r in rates.values())
        assert rates[result["spread"][name]["against"]] == max(list(rates.values())[1:])


def test_the_table_shows_every_ratio(result):
    table = format_bench(result)
    assert list(table.columns[0].cells)[: len(RATIOS)] == list(result["ratios"])


def test_the_bare_loop_reads_the_prompts_as_the_sampler_does(policy, messages):
    """Greedily both write the same ids, also where prompts of two lengths are padded."""
    inputs = bare_inputs(policy, messages)
    assert not inputs["attention_mask"].all()
    bare = bare_loop(policy.model, inputs, 8, is_greedy=True)
    ours = policy.sample([SampleRequest(m, 0, 8, 0.0) for m in messages])
    assert bare.tolist() == [c.token_ids.tolist() for c in ours]


def test_generate_samples_nothing_that_is_forbidden_and_never_ends_early(policy, messages):
    inputs = bare_inputs(policy, messages)
    ids = bare_generate(policy.model, inputs, 30)
    assert ids.shape == (len(messages), 30)
    assert not set(ids.flatten().tolist()) & set(policy.model.forbidden_ids.tolist())


def test_lockstep_writes_the_same_completions(policy, messages):
    requests = [SampleRequest(m, i, 1 + 5 * i) for i, m in enumerate(messages)]
    ours = policy.sample(requests)
    lockstep = InProcessSampler(policy.model, policy.images, is_refilled=False, drops_finished=False).sample(requests)
    for a, b in zip(ours, lockstep, strict=True):
        assert a.token_ids.tolist() == b.token_ids.tolist()
        assert a.sampling_logprobs == pytest.approx(b.sampling_logprobs, abs=1e-4)


def test_both_bare_losses_are_the_same_number(policy, messages):
    samples = training_samples(policy, messages, 8)
    batch = batch_of(policy.model, policy.images, samples)
    vision = policy.model.vision.pixels([h for hashes in batch.image_hashes for h in hashes], policy.images)
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask.long(), **vision}
    losses = [loss(policy.model, inputs, batch).item() for loss in (model_loss, completion_loss)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_lengths_are_uniform_or_have_a_tail():
    uniform, tailed = uniform_lengths(2000, 32), geometric_lengths(2000, 32)
    assert (min(uniform), max(uniform)) == (8, 64) and sum(uniform) / 2000 == pytest.approx(36, abs=1)
    assert (min(tailed), max(tailed)) == (1, 128) and sum(tailed) / 2000 == pytest.approx(16, abs=1)


def test_a_repeat_of_our_side_processes_and_encodes_its_pictures_again(policy, monkeypatch):
    seen = []
    encode = policy.model.model.get_image_features

    @wraps(encode)
    def watched(**inputs):
        seen.append(len(inputs["pixel_values"]))
        return encode(**inputs)

    monkeypatch.setattr(policy.model.model, "get_image_features", watched)
    with rollout_sides(policy, num_envs=4, rollout_steps=1, new_tokens=2) as (ours, _, _):
        for _ in range(2):
            seen.clear()
            ours.prepare()
            assert not policy.model.vision._processed and not policy.sampler.prefixes._entries
            ours.run()
            assert sum(seen) == 4


def test_the_bare_side_of_a_rollout_reads_the_prompts_that_were_played(policy):
    with rollout_sides(policy, num_envs=3, rollout_steps=2, new_tokens=2) as (ours, _, loop):
        ours.prepare()
        assert ours.run() == 3 * 2 * 2
        loop.prepare()
        assert loop.run() == 3 * 2 * 2


def test_a_shared_text_is_two_thirds_of_its_prompt_and_stands_before_the_picture(policy, messages):
    ids = [policy.model.encode(text_first(m), policy.images).ids for m in messages]
    begins = {tuple(i[: list(i).index(policy.model.image_token_id)]) for i in ids}
    (begin,) = begins
    assert 36 <= len(begin) <= 44 and 56 <= len(ids[0]) <= 66


def test_a_conversation_continues_what_was_written_and_shows_a_new_picture_at_each_step(policy, messages):
    forget(policy)
    steps = [messages[:2], messages[2:4], messages[4:]]
    (first, _), (second, _), (third, _) = converse(policy.sample, steps, new_tokens=3, draw=0)
    assert third[: len(second)] == second and second[: len(first)] == first
    ids = [policy.model.encode(m, policy.images).ids.tolist() for m in (first, second, third)]
    assert ids[2][: len(ids[1])] == ids[1] and ids[1][: len(ids[0])] == ids[0]
    assert len(set(policy.model.encode(third, policy.images).image_hashes)) == 3


def test_only_the_side_that_keeps_reads_what_is_new_and_nothing_else(policy, messages, monkeypatch):
    read = []
    hidden = VisionLanguageModel.hidden

    def watched(model, input_ids, *args, **kwargs):
        if input_ids.shape[1] > 1:
            read.append(input_ids.shape[1])
        return hidden(model, input_ids, *args, **kwargs)

    kept, again, _ = conversation_sides(policy, messages, 2, new_tokens=3)
    monkeypatch.setattr(VisionLanguageModel, "hidden", watched)
    for side in (kept, again):
        read.clear()
        side.prepare()
        assert side.run() == 6
        if side is kept:
            assert len(read) == 3 and max(read[1:]) < read[0]
        else:
            assert read[0] < read[1] < read[2]


def test_the_update_of_a_group_reads_its_prompt_once_and_that_of_each_alone_does_not(policy, monkeypatch):
    learned = []
    monkeypatch.setattr(Learner, "update", lambda learner, samples: learned.append(samples))
    group, alone, *_ = group_update_sides(policy, prompts(bench_tasks()[:1], policy.images, GROUP_SIZE), GROUP_SIZE, 4)
    assert [group.run(), alone.run()] == [GROUP_SIZE] * 2
    of_group, of_each = (batch_of(policy.model, policy.images, samples, shares_prompts=True) for samples in learned)
    assert of_group.shared is not None and len(of_group.shared.input_ids) == 1
    assert len(set(of_each.image_hashes)) == GROUP_SIZE
    assert of_each.input_ids.numel() > 2 * of_group.input_ids.numel()


@pytest.fixture
def gpu_bench():
    path = Path(eyas.bench.__file__).parents[3] / "benchmarks" / "gpu.py"
    spec = spec_from_file_location("gpu_bench", path)
    module = module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_what_sampling_has_to_read_and_compute_is_counted_by_hand(gpu_bench):
    model = gpu_bench.build_policy(is_tiny=True).model
    width, inner, keys, vocabulary = 64, 96, 2 * 16, len(model.tokenizer)
    a_layer = 2 * width * width + 2 * width * keys + (width + 2 * keys) + 3 * width * inner + 2 * width
    weights = 2 * a_layer + vocabulary * width
    assert gpu_bench.decoder_weights(model) == weights
    assert gpu_bench.cache_bytes_a_token(model) == 2 * 2 * keys * 4  # keys and values of two layers in float32
    # two steps of three rows behind ten tokens: the weights twice, and 10 + 11 tokens of each row
    assert gpu_bench.sampling_bytes(model, 3, 10, 2) == 2 * weights * 4 + 3 * 21 * 2 * 2 * keys * 4
    assert gpu_bench.sampling_flops(model, 5) == 10 * weights


def test_the_benchmark_for_a_gpu_runs_on_a_tiny_model(gpu_bench):
    policy = gpu_bench.build_policy(is_tiny=True)
    limits = gpu_bench.Limits(bytes_per_s=1e11, flops_per_s=1e11)
    sampled = gpu_bench.sampling(policy, limits, batch=2, new_tokens=6, repeats=1)
    assert sampled["tokens_per_s"] > 0 and sampled["prompt_tokens"] > 64
    updated = gpu_bench.updating(policy, limits, batch=2, new_tokens=4, repeats=1)
    assert updated["tokens"] >= 2 * (sampled["prompt_tokens"] + 2) and 0 < updated["arithmetic_share"] < 1


def test_without_a_gpu_the_large_model_is_refused_in_words(gpu_bench, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="no GPU is at hand"):
        gpu_bench.main()


def test_a_slowed_environment_takes_its_time_and_computes_for_a_share_of_it():
    env = slowed(Walk, 0.05)()
    env.reset(seed=0)
    elapsed, cpu = time.perf_counter(), time.thread_time()
    assert env.step(0)[1] == 1.0
    assert time.perf_counter() - elapsed >= 0.05
    assert CPU_SHARE * 0.05 <= time.thread_time() - cpu < 0.04


def test_a_worker_with_a_slowed_environment_loads_no_torch():
    class Telling(Walk):
        def step(self, action):
            return *super().step(action)[:4], {"modules": set(sys.modules)}

    pool = WorkerPool([EnvSource(slowed(Telling, 0.001))], 1)
    pool.start(0, 0, 0)
    pool.answers()
    pool.step(0, [0])
    ((_, outcome),) = pool.answers()
    pool.close()
    assert "gymnasium" in outcome.info["modules"] and "torch" not in outcome.info["modules"]


def test_both_sides_of_the_workers_play_the_same_steps_of_an_environment_that_takes_what_the_model_takes(monkeypatch):
    played, asked = [], []
    steps = Collector.steps

    def watched(collector, steps_per_env):
        trajectories = steps(collector, steps_per_env)
        played.append([(t.episode, t.first_step, len(t.steps)) for t in trajectories])
        return trajectories

    monkeypatch.setattr(Collector, "steps", watched)
    monkeypatch.setattr(eyas.bench.overlap, "sampling_seconds", lambda *sizes: 0.04)
    monkeypatch.setattr(eyas.bench.overlap, "slowed", lambda make, step_s: asked.append(step_s) or slowed(make, step_s))
    comparison, details = compare_workers(1, num_envs=8, rollout_steps=2)
    assert asked == [0.04] and details["env_step_ms"] == 40.0
    assert comparison.counts == {"workers": [16], "in_process": [16]}
    assert played[0] == played[1] and played[2] == played[3] != played[0]
    assert comparison.rates_per_s["in_process"] < 1 / 0.04  # one after the other
    assert comparison.spread["median"] > 1.0  # two at a time, while the model works; more where nothing else runs


def test_the_model_s_share_of_a_step_is_timed():
    class Slow(TimedActor):
        def __init__(self, policy):
            super().__init__(policy)
            sample = policy.sample
            policy.sample = lambda requests: time.sleep(0.02 * len(requests)) or sample(requests)

    actor = Slow(bench_policy())
    a_step = sampling_seconds(actor, text_task(lambda: Walk(9)), num_envs=2, rollout_steps=2)
    assert actor.num_decisions == 4  # of the second rollout
    assert a_step == pytest.approx(actor.seconds / 4) and a_step > 0.02


def test_time_inside_counts_once_where_calls_are_nested():
    inside = Inside()
    inner = inside.wrap(lambda: sum(range(10**5)))
    outer = inside.wrap(lambda: [inner() for _ in range(5)])
    begun = now_here()
    outer()
    assert 0 < inside.seconds <= now_here() - begun


def test_memory_does_not_grow_and_a_leak_is_seen(result, monkeypatch):
    leaked = []
    record = loop.record
    monkeypatch.setattr(loop, "record", lambda *args: leaked.append(args[3]) or record(*args))
    with_leak = memory_growth(1)["live_objects_growth"]
    assert result["memory"]["live_objects_growth"] < 150 < with_leak
