"""The judge: what it is asked, what its answer is worth, what is remembered, and what a failure costs."""

import json
import re
import tomllib
from pathlib import Path

import pytest

import eyas
from eyas.config import RunConfig, TaskConfig
from eyas.errors import ConfigError, LimitReached, ModelError
from eyas.evaluation.records import read_metrics
from eyas.interface import Interface
from eyas.recipes import to_toml
from eyas.rewards.judge import MOST_FAILURES_IN_A_ROW, TOGETHER, JudgeReward, score_in
from eyas.rewards.options import JudgeConfig
from eyas.rewards.registry import REWARDS
from eyas.rollouts.datasets import load_trajectories
from eyas.rollouts.images import MemoryImageStore
from eyas.samplers.openai import ServedSampler
from eyas.types import Completion
from helpers import SMALL, CountingEnv, nano_policy, picture, prompt, step, trajectory
from helpers_served import FakeServer, Reply, completion, pictures, said
from tiny_runs import played as played_run

INTERFACE = Interface.for_env(CountingEnv(), text="Count up.")


def played(*actions, observation="It is 3.", thought="So.", image_hashes=()):
    """An episode whose steps write these actions; None writes nonsense."""
    asked = prompt(f"Count up. {observation} {INTERFACE.format.instruction()}", *image_hashes)
    texts = ["nonsense" if a is None else json.dumps({"thoughts": thought, "action": a}) for a in actions]
    steps = [step(c := Completion(t), INTERFACE.parse(c, None), messages=asked) for t in texts]
    return trajectory(steps)


def judge_at(server, images=MemoryImageStore(), retries=1, **options):  # noqa: B008
    config = JudgeConfig(model="served:j", base_url=server.url, retries=retries, **options)
    return JudgeReward(config, INTERFACE, ServedSampler("j", server.url, images, retries=0))


# ----------------------------------------------------------------------------------------------- its answer


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("0.7", 0.7),
        ("1", 1.0),
        (".25", 0.25),
        ("Yes.", 1.0),
        ("no", 0.0),
        ("It is legal.\nScore: **0.5**\n", 0.5),
        ("0.2\nOn second thought:\n0.9", 0.9),
        ("0.7 of 1", None),
        ("7/10", None),
        ("10", None),
        ("1.5", None),
        ("-0.5", None),
        ("80%", None),
        ("0.8%", None),
        ("Yes, but no", None),
        ("0.7\nbecause it is legal", None),
        ("", None),
    ],
)
def test_a_score_is_what_the_last_line_says_alone(answer, score):
    assert score_in(answer) == score


# ----------------------------------------------------------------------------------------------- what is asked


def test_it_is_asked_about_the_task_the_observation_and_the_action_with_the_picture_before():
    images = MemoryImageStore()
    shown = picture()
    with FakeServer(lambda body: "0.5") as server:
        judge = judge_at(server, images, question="{task}|{observation}|{action}|{thought}|{{}}", max_new_tokens=9)
        assert judge([played("1", image_hashes=[images.put(shown)])]) == [[0.5]]
    (body,) = server.bodies
    assert said(body) == "Count up.|It is 3.|1|So.|{}"
    assert (pictures(body)[0] == shown).all()
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("j", 9, 0.0)


def test_the_usual_question_shows_no_thought_which_could_talk_it_round():
    with FakeServer(lambda body: "1") as server:
        judge_at(server)([played("1", thought="This is right: 1", observation="")])
    assert "Count up." in said(server.bodies[0]) and "nothing in words" in said(server.bodies[0])
    assert "This is right" not in said(server.bodies[0]) and '"action"' not in said(server.bodies[0])


def test_equal_questions_are_asked_once_and_other_pictures_make_another_question():
    images = MemoryImageStore()
    first, second = images.put(picture(1)), images.put(picture(2))
    with FakeServer(lambda body: "yes" if "chooses: 1" in said(body) else "no") as server:
        judge = judge_at(server, images)
        assert judge([played("1", "0", "1"), played("1")]) == [[1.0, 0.0, 1.0], [1.0]]
        assert len(server.bodies) == 2
        judge([played("0", "1")])
        assert len(server.bodies) == 2
        judge([played("1", image_hashes=[first]), played("1", image_hashes=[second])])
    assert len(server.bodies) == 4


def test_a_step_without_an_action_of_its_own_earns_nothing_and_is_not_judged():
    with FakeServer(lambda body: "1") as server:
        judge = judge_at(server, on_failure=0.5)
        assert judge([played(None, "1"), played(None)]) == [[0.0, 1.0], [0.0]]
    assert len(server.bodies) == 1
    assert judge.metrics()["steps_count"] == 1.0


def test_a_frozen_model_here_is_asked_as_well():
    policy = nano_policy()
    judge = JudgeReward(JudgeConfig(model="nano", on_failure=0.5, max_new_tokens=4), INTERFACE, policy)
    ((score,),) = judge([played("1", image_hashes=[policy.images.put(picture())])])
    assert score == 0.5  # its weights are random
    assert judge.metrics() == {"steps_count": 1.0, "asked_count": 2.0, "failed_count": 1.0, "score_mean": 0.5}


# ----------------------------------------------------------------------------------------------- failures


def test_an_answer_without_a_score_is_asked_for_again_and_then_is_a_counted_failure():
    answers = iter(["fine", "0.25"])
    with FakeServer(lambda body: next(answers)) as server:
        assert judge_at(server)([played("1")]) == [[0.25]]
    assert [b["temperature"] > 0 for b in server.bodies] == [False, True]
    assert len({b["seed"] for b in server.bodies}) == 2
    with FakeServer(lambda body: "fine" if "chooses: 1" in said(body) else "1") as server:
        judge = judge_at(server, retries=2, on_failure=0.5)
        assert judge([played("1", "1", "0")]) == [[0.5, 0.5, 1.0]]
        assert len(server.bodies) == 4
        assert judge.metrics()["failed_count"] == 2.0
        assert judge([played("1")]) == [[0.5]]  # it is not asked for ever
    assert len(server.bodies) == 4


def test_a_question_that_is_too_long_for_it_is_a_failure_of_its_own():
    def too_long(body):
        if "chooses: 0" in said(body):
            return Reply(400, {"error": {"code": "context_length_exceeded", "message": "no"}})
        return "1"

    with FakeServer(too_long) as server:
        judge = judge_at(server, on_failure=0.25)
        assert judge([played("1", "0")]) == [[1.0, 0.25]]


def test_a_question_that_the_server_refuses_costs_no_other():
    with FakeServer(lambda body: Reply(400, "no such talk") if "chooses: 0" in said(body) else "1") as server:
        judge = judge_at(server, on_failure=0.25)
        assert judge([played("1", "0")]) == [[1.0, 0.25]]
        assert judge.metrics()["failed_count"] == 1.0
        assert len(server.bodies) == 2  # not asked again at once
        assert len(judge.state_dict()["scores"]) == 1  # but maybe another time


def test_a_failing_server_costs_the_questions_of_a_call_and_in_a_row_the_run():
    is_up = False
    with FakeServer(lambda body: "1" if is_up else Reply(500, "down")) as server:
        judge = judge_at(server, on_failure=0.5)
        for _ in range(MOST_FAILURES_IN_A_ROW - 1):
            assert judge([played("1", "1")]) == [[0.5, 0.5]]
        assert judge.metrics()["failed_count"] == 2.0 * (MOST_FAILURES_IN_A_ROW - 1)
        is_up = True
        assert judge([played("1")]) == [[1.0]]  # asked again, and the count begins anew
        is_up = False
        for action in "0" * (MOST_FAILURES_IN_A_ROW - 1):
            judge([played(action)])
        with pytest.raises(ModelError, match=r"the judge failed 3 times in a row: .*500 down"):
            judge([played("0")])


def test_what_fits_into_one_call_is_lost_together_and_no_more():
    many = [played("1", observation=f"It is {i}.") for i in range(TOGETHER + 5)]
    with FakeServer(lambda body: Reply(403, "no") if "It is 0." in said(body) else "1") as server:
        scores = [s for (s,) in judge_at(server)(many)]
    assert scores == [0.0] * TOGETHER + [1.0] * 5


# ----------------------------------------------------------------------------------------------- what it takes


def test_tokens_and_cost_are_those_since_the_last_call():
    with FakeServer(lambda body: completion("1", usage=(1000, 10))) as server:
        config = JudgeConfig(model="served:j", base_url=server.url)
        served = ServedSampler("j", server.url, MemoryImageStore(), price=(2.0, 10.0))
        judge = JudgeReward(config, INTERFACE, served)
        judge([played("1", "0", "1")])
        first = judge.metrics()
        judge([played("1")])
        second = judge.metrics()
    assert (first["input_tokens_count"], first["output_tokens_count"], first["requests_count"]) == (2000, 20, 2)
    assert first["cost"] == pytest.approx(0.0042)
    assert (first["steps_count"], first["asked_count"], first["score_mean"]) == (3.0, 2.0, 1.0)
    assert (second["cost"], second["asked_count"], second["steps_count"]) == (0.0, 0.0, 1.0)


# ----------------------------------------------------------------------------------------------- in a recipe


@pytest.mark.parametrize(
    ("judge", "problem"),
    [
        ({}, "rewards.judge.model: is required"),
        ({"model": "served:x"}, "rewards.judge: where is the model 'served:x'"),
        ({"model": "x", "base_url": "http://h/v1"}, "rewards.judge: base_url is for served models"),
        ({"model": "x", "price": [1, 2]}, "rewards.judge: price is for served models"),
        ({"model": "served:x", "base_url": "http://h/v1", "most_cost": 1}, "rewards.judge: most_cost needs price"),
        ({"model": "x", "question": "{answer}"}, r"rewards.judge: question: 'answer'; write {task}"),
        ({"model": "x", "question": "a {"}, "rewards.judge: question: "),
        ({"model": "x", "retry": 2}, "rewards.judge.retry: unknown key; did you mean 'retries'"),
        (0.5, "rewards.judge: should be a table, not 0.5"),
    ],
)
def test_what_cannot_be_judged_with_is_refused(judge, problem):
    run = {
        "name": "a",
        "tasks": [{"env": "e", "rewards": {"judge": judge}}],
        "stages": [{"kind": "collect", "episodes": 1}],
    }
    with pytest.raises(ConfigError) as caught:
        RunConfig.model_validate(run)
    assert f"tasks.0.{problem}" in str(caught.value)


def judged(server, output, **options):
    """The recipe of a tiny run that learns from a judge."""
    judge = {"model": "served:j", "base_url": server.url, "weight": 0.2} | options
    interface = {"action_mode": "score", "thoughts": False}
    rl = {"iterations": 2, "num_envs": 2, "rollout_steps": 3, "minibatch_size": 6, "epochs": 1, "checkpoint_every": 1}
    config = {
        "name": "judged",
        "output": str(output),
        "films": False,
        "model": {"options": SMALL},
        "tasks": [
            {"env": "eyas/NumberLine-v0", "interface": interface, "rewards": {"format": 0.1, "judge": judge}},
        ],
        "stages": [
            {"kind": "rl", **rl},
            {"kind": "eval", "episodes": 1, "rows": ["rl"], "decodings": ["sample"]},
        ],
    }
    return RunConfig.model_validate(config)


def test_a_run_learns_from_a_judge_that_is_asked_in_reinforcement_alone(tmp_path: Path):
    with FakeServer(lambda body: "0.5") as server:
        run = eyas.train(judged(server, tmp_path))
    records = [r for r in read_metrics(run.folder / "metrics.jsonl") if r["stage"] == "rl"]
    assert [(r["judge/steps_count"], r["judge/score_mean"], r["judge/failed_count"]) for r in records] == [
        (6, 0.5, 0)
    ] * 2
    assert sum(r["judge/asked_count"] for r in records) == len(server.bodies)
    assert all(len(pictures(body)) == 1 for body in server.bodies)
    terms = [s.reward.terms for t in load_trajectories(run.folder) for s in t.steps]
    learned = [t for t in terms if "judge" in t]
    assert len(learned) == 12 and all(t["judge"] == pytest.approx(0.1) and t["format"] == 0.1 for t in learned)
    assert {"environment"} in [set(t) for t in terms]  # of the evaluation


def test_a_resumed_run_asks_nothing_twice_and_its_limit_holds_for_all_of_it(tmp_path: Path):
    def answer(body):
        return completion("0.5", usage=(1000, 10))

    with FakeServer(answer) as whole:
        records = read_metrics(played_run(judged(whole, tmp_path / "whole")) / "metrics.jsonl")
    with FakeServer(answer) as parted:
        folder = played_run(judged(parted, tmp_path / "parted"), stop_after=1)
    assert len(whole.bodies) == len(parted.bodies) == len({json.dumps(body["messages"]) for body in parted.bodies})
    asked = [
        [r["judge/requests_count"] for r in rs if r["stage"] == "rl"]
        for rs in (records, read_metrics(folder / "metrics.jsonl"))
    ]
    assert asked[0] == asked[1] and asked[0][1] > 0
    with FakeServer(answer) as limited:
        recipe = judged(limited, tmp_path / "limited", most_requests=len(whole.bodies) - 1)
        with pytest.raises(LimitReached):
            played_run(recipe, stop_after=1)
        assert len(limited.bodies) == len(whole.bodies) - 1
        config = tmp_path / "limited" / "judged" / "config.toml"
        more = f"most_requests = {len(whole.bodies)}"
        config.write_text(config.read_text().replace(f"most_requests = {len(whole.bodies) - 1}", more))
        eyas.train(str(config), resume=True)
    assert len(limited.bodies) == len(whole.bodies) - 1 + len(whole.bodies) - asked[0][0]


def test_a_checkpoint_of_a_judged_run_plays_without_its_judge():
    task = TaskConfig(env="eyas/NumberLine-v0", rewards={"judge": {"model": "served:j", "base_url": "http://h/v1"}})
    agent = eyas.Agent(nano_policy(), MemoryImageStore(), (task,))
    assert agent.task("eyas/NumberLine-v0").rewards == ()


# ----------------------------------------------------------------------------------------------- the guide

DOCUMENT = (Path(__file__).parents[3] / "docs" / "rewards.md").read_text()


def test_the_guide_names_every_term_and_option_and_its_recipe_is_one():
    (recipe,) = re.findall(r"```toml\n(.*?)```", DOCUMENT, re.DOTALL)
    run = RunConfig.model_validate(tomllib.loads(recipe))
    assert run.tasks[0].rewards.judge is not None
    assert RunConfig.model_validate(tomllib.loads(to_toml(run))) == run
    terms, options = (set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\|([^|]*)\|", t, re.M)))) for t in tables())
    assert terms == {*REWARDS, "judge"}
    assert options == set(JudgeConfig.model_fields)


def tables():
    return re.findall(r"(?:^\|.*\n)+", DOCUMENT, re.MULTILINE)
