"""Numbers of runs, and what they say of a statement."""

import math

import pytest

from eyas.errors import DatasetError
from eyas.recipes import load_recipe
from eyas.reproductions import Measure, Statement
from eyas.reproductions.results import Record, compute_before, judge
from helpers_reproductions import definition, record, report, row, seeds

STATEMENT = Statement(text="RL beats its start", greater=("plain", "rl"), lesser=("plain", "sft"))


def found(*pairs: tuple[float, float]):
    records = [record("plain", seed, sft, rl) for seed, (sft, rl) in enumerate(pairs)]
    return judge(definition(), records, seeds(*range(len(pairs))), STATEMENT)


def test_a_difference_is_taken_seed_by_seed_with_the_t_interval_by_hand():
    judged = found((0.1, 0.2), (0.1, 0.3), (0.1, 0.4))
    half = 4.302653 * 0.1 / math.sqrt(3)  # t of 97.5 % with 2 degrees of freedom, s = 0.1
    assert judged.difference == pytest.approx(0.2)
    assert judged.interval == pytest.approx((0.2 - half, 0.2 + half), abs=1e-6)
    assert (judged.greater, judged.lesser) == pytest.approx((0.3, 0.1))
    assert judged.finding == "undecided"


@pytest.mark.parametrize(
    ("pairs", "finding"),
    [
        (((0.1, 0.31), (0.4, 0.6), (0.7, 0.89)), "for"),  # the values of both overlap: only pairs tell them apart
        (((0.31, 0.1), (0.6, 0.4), (0.89, 0.7)), "against"),
        (((0.1, 0.2), (0.3, 0.2), (0.2, 0.2)), "undecided"),
        (((0.1, 0.9),), "unknown"),
    ],
)
def test_findings(pairs, finding):
    assert found(*pairs).finding == finding


def test_arms_without_a_seed_in_common_leave_a_statement_unknown():
    records = [record(arm, seed, 0.1, 0.9) for arm, seed in (("plain", 0), ("other", 1))]
    statement = STATEMENT.model_copy(update={"lesser": ("other", "sft")})
    assert judge(definition(), records, {"plain": [0], "other": [1]}, statement).finding == "unknown"


def test_a_missing_run_leaves_a_statement_unknown():
    records = [record("plain", seed, 0.1, 0.9 + seed / 100) for seed in (0, 1)]
    assert judge(definition(), records, seeds(0, 1), STATEMENT).finding == "for"
    assert judge(definition(), records, seeds(0, 1, 2), STATEMENT).finding == "unknown"
    assert judge(definition(), records, seeds(0, 1), definition().statements[1]).finding == "unknown"


def test_measures_of_metrics_are_means_of_the_first_or_the_last_iterations():
    run = record("plain", 0, 0.1, 0.9)
    measure = Measure(name="m", metric="rollout/thought_unique_share", iterations=2)
    assert run.value(measure) == pytest.approx(0.6)
    assert run.value(measure.model_copy(update={"at": "first"})) == pytest.approx(0.9)
    assert run.value(measure.model_copy(update={"metric": "rollout/unheard_of"})) is None


def test_measures_of_evaluations_read_their_row_and_else_the_last():
    rows = (row("sft", 0.1), row("sft", 0.2, decoding="greedy"), row("rl", 0.3), row("rl", 0.4, decoding="greedy"))
    run = record("plain", 0, 0, 0, evaluations={"eval": report(*rows)})
    assert run.value(Measure(name="m")) == 0.3
    assert run.value(Measure(name="m", row="sft", decoding="greedy")) == 0.2
    assert run.value(Measure(name="m", value="return_mean")) == 1.25
    assert run.value(Measure(name="m", eval="another")) is None
    assert run.value(Measure(name="m", row="expert")) is None


def test_a_record_comes_back_as_it_was_saved(tmp_path):
    run = record("plain", 3, 0.1, 0.9)
    run.save(tmp_path)
    loaded = Record.load(tmp_path / "plain_3.json")
    assert loaded.evaluations == run.evaluations
    assert loaded.value(Measure(name="m", metric="rollout/thought_unique_share")) == pytest.approx(2.2 / 3)
    (tmp_path / "plain_3.json").write_text("{}")
    with pytest.raises(DatasetError, match="reproduce again"):
        Record.load(tmp_path / "plain_3.json")


def test_compute_counts_three_passes_an_update_and_one_a_sampled_step_without_side_branches():
    sizes = ["stages.sft.steps=10", "stages.sft.batch_size=4", "stages.rl.iterations=5", "stages.rl.epochs=2"]
    sizes += ["stages.rl.num_envs=3", "stages.rl.rollout_steps=7"]
    assert compute_before(load_recipe("numberline_ppo", sizes)) == {"eval": 3 * 10 * 4 + 5 * 3 * 7 * (1 + 3 * 2)}
    assert (
        compute_before(load_recipe("frozenlake4x4_gigpo")) == {}
    )  # whole episodes: nobody knows their steps beforehand


def test_both_ways_of_the_comparison_of_fine_tuning_and_rl_cost_the_same():
    rl, sft = (compute_before(load_recipe(f"generalpoints_{way}")) for way in ("rl", "sft"))
    assert rl["in_0"] == sft["in_0"]
    assert all(abs(rl[name] / sft[name] - 1) < 0.02 for name in rl)
