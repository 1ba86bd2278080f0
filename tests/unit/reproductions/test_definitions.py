"""Definitions: what they may say, what they become, and that the shipped ones say nothing that their runs cannot answer."""

from pathlib import Path

import pytest

from eyas.config import EvalStage, RLStage, RunConfig
from eyas.errors import ConfigError
from eyas.reproductions import Measure, load_definition, plan, quickened, shipped_definitions
from eyas.reproductions.results import compute_before
from helpers_reproductions import DEFINITION, definition

PAPERS = ["gigpo", "gtr", "rl4vlm", "sftvsrl"]


def test_the_papers_are_there():
    assert set(PAPERS) <= set(shipped_definitions())
    assert all(load_definition(name).source for name in PAPERS)


@pytest.mark.parametrize("name", shipped_definitions())
@pytest.mark.parametrize("scale", ["laptop", "paper"])
def test_every_shipped_definition_can_be_run_and_its_numbers_can_be_found(name, scale, tmp_path):
    shipped = load_definition(name)
    configs = {job.arm: job.config for job in plan(shipped, tmp_path, scale)}
    assert configs.keys() == {arm.name for arm in shipped.arms}
    references = [reference for s in shipped.statements for reference in (s.greater, s.lesser)]
    for arm, measure in references:
        assert finds(configs[arm], shipped.measure(measure)), (arm, measure)
    for panel in shipped.panels:
        for arm in panel.arms or configs:
            assert set(panel.evals) <= compute_before(configs[arm]).keys()
            assert panel.metric is None or isinstance(configs[arm].stage(panel.stage), RLStage)
    if name in PAPERS:
        assert len(shipped.seeds) >= 3
        assert shipped.statements
        assert all(("7B" in c.model.name or "7b" in c.model.name) == (scale == "paper") for c in configs.values())


def finds(config: RunConfig, measure: Measure) -> bool:
    if measure.metric is not None:
        return isinstance(config.stage(measure.stage), RLStage)
    stage = config.stage(measure.eval)
    return isinstance(stage, EvalStage) and (measure.row is None or measure.row in config.ladder_rows(stage))


def test_the_definition_in_the_documentation_works(tmp_path):
    guide = (Path(__file__).parents[3] / "docs/reproduce.md").read_text()
    (tmp_path / "mine.toml").write_text(guide.split("```toml\n")[1].split("```")[0])
    jobs = plan(load_definition(str(tmp_path / "mine.toml")), tmp_path)
    assert [job.config.stage("rl").algorithm.clip for job in jobs[:2]] == [0.1, 0.3]
    named = {name for name in shipped_definitions() if f"`{name}`" in guide}
    assert named == set(shipped_definitions())


def test_an_unknown_name_is_told_the_nearest():
    with pytest.raises(ConfigError, match=r"called 'rl4vml'; did you mean 'rl4vlm'\?"):
        load_definition("rl4vml")
    with pytest.raises(ConfigError, match=r"known: .*numberline_ppo"):
        load_definition("xyz")


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("claim =", "claims =", "claims: unknown key; did you mean 'claim'"),
        ("budget_core_hours = 0.5", "budget_core_hours = 3.5", "budget_core_hours: should be less than or equal to 3"),
        ('name = "other"', 'name = "plain"', "needs a name, or a seed, of its own"),
        ('greater = ["other", "rl"]', 'greater = ["othr", "rl"]', "there is no 'othr'; did you mean 'other'"),
        ('lesser = ["plain", "sft"]', 'lesser = ["plain", "start"]', "there is no 'start'"),
        ('measures = ["sft", "rl"]', 'measures = ["sft", "rll"]', "there is no 'rll'; did you mean 'rl'"),
        ('evals = ["eval"]', 'evals = ["eval"]\nmetric = "x"', "exactly one of 'measures', 'metric' and 'evals'"),
        ('title = "Does it learn?"', "title = Does it learn?", "not valid TOML"),
    ],
)
def test_what_is_wrong_with_a_definition_is_said_with_its_file(tmp_path, old, new, problem):
    path = tmp_path / "mine.toml"
    path.write_text(DEFINITION.replace(old, new, 1))
    with pytest.raises(ConfigError, match=problem) as raised:
        load_definition(str(path))
    assert str(path) in str(raised.value)


def test_a_plan_has_every_arm_with_every_seed_and_one_seed_where_it_is_quick(tmp_path):
    jobs = plan(definition(seeds=[3, 5]), tmp_path)
    assert [(j.arm, j.seed) for j in jobs] == [("plain", 3), ("other", 3), ("plain", 5), ("other", 5)]
    assert [j.config.name for j in jobs[:2]] == ["tiny-plain-3", "tiny-other-3"]
    assert [(j.config.seed, j.config.model.seed) for j in jobs] == [(3, 3), (3, 3), (5, 5), (5, 5)]
    assert jobs[1].config.stage("rl").algorithm.thought_weight == 0.5
    assert jobs[0].config.stage("rl").algorithm.thought_weight == 0.3
    assert jobs[0].folder == tmp_path / "tiny-plain-3"
    assert [j.seed for j in plan(definition(), tmp_path, seeds=[7])] == [7, 7]
    assert [j.config.name for j in plan(definition(), tmp_path, is_quick=True)] == [
        "tiny_quick-plain-0",
        "tiny_quick-other-0",
    ]


def test_the_scale_of_the_paper_changes_every_arm_and_its_own_changes_come_last(tmp_path):
    arms = [{"name": "a", "recipe": "numberline_ppo"}]
    arms.append({"name": "b", "recipe": "numberline_ppo", "paper": ["model.name=another/model"]})
    paper = plan(definition(arms=arms, statements=[]), tmp_path, "paper")[:2]
    assert [(j.config.model.name, j.config.model.train) for j in paper] == [
        ("some/model", "lora"),
        ("another/model", "lora"),
    ]
    assert plan(definition(), tmp_path)[0].config.model.name == "nano-random"


def test_an_override_that_fits_no_recipe_is_refused_before_anything_runs(tmp_path):
    arms = [{"name": "a", "recipe": "numberline_ppo", "set": ["stages.rl.algorithm.gama=1"]}]
    with pytest.raises(ConfigError, match="did you mean 'gamma'"):
        plan(definition(arms=arms, statements=[]), tmp_path)


@pytest.mark.parametrize("recipe", ["numberline_ppo", "frozenlake4x4_gigpo", "generalpoints_sft", "mountaincar_ppo"])
def test_a_quick_run_has_every_stage_with_tiny_numbers(recipe, tmp_path):
    arms = [{"name": "a", "recipe": recipe}]
    full = plan(definition(arms=arms, statements=[]), tmp_path)[0].config
    quick = quickened(full)
    assert [(s.kind, s.name) for s in quick.stages] == [(s.kind, s.name) for s in full.stages]
    most = {"steps": 2, "iterations": 2, "episodes": 8, "num_envs": 64, "rollout_episodes": 4, "rollout_steps": 2}
    for stage in quick.stages:
        if stage.kind == "rl":
            assert stage.num_envs == 4
        assert all((getattr(stage, key, None) or 0) <= limit for key, limit in most.items())
