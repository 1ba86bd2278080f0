"""Gymnasium's own wrappers, as users put them around their environments: the collector plays what they make of it.

Each is compared with what a plain Gymnasium loop over the same wrapped environment gives.
"""

import sys
import types
import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces, wrappers

from eyas.build import build_task
from eyas.config import TaskConfig, WorkersConfig
from eyas.envs.making import make_env
from eyas.errors import ConfigError
from eyas.rollouts.collector import Collector
from eyas.rollouts.images import MemoryImageStore
from eyas.seeding import Split, environment_seed
from eyas.types import ImagePart, StopReason
from helpers import always, nonsense, prompt_text, text_task
from helpers_walks import Slide, Uneven, Walk


def play(task, actor, episodes=range(2), num_envs=1, **options):
    c = Collector(actor, [task], MemoryImageStore(), 0, Split.TRAIN, num_envs, **options)
    try:
        return c.episodes(episodes)
    finally:
        c.close()


def loop(env, action, episodes=2):
    """Rewards, endings and last infos of a plain Gymnasium loop on the seeds of those episodes."""
    played = []
    for episode in range(episodes):
        env.reset(seed=environment_seed(0, Split.TRAIN, episode))
        rewards, has_ended = [], False
        while not has_ended:
            _, reward, terminated, truncated, info = env.step(action)
            rewards.append(float(np.asarray(reward).item()))
            has_ended = terminated or truncated
        played.append((rewards, "terminated" if terminated else "truncated", info))
    env.close()
    return played


def rewards_of(trajectory):
    return [s.reward.terms["environment"] for s in trajectory.steps]


def in_place(make_env, actor, action, **options):
    """Plays both ways, checks that they agree, and returns the collector's episodes."""
    trajectories = play(text_task(make_env, **options), actor)
    expected = loop(make_env(), action)
    assert [(rewards_of(t), str(t.stop_reason)) for t in trajectories] == [(r, end) for r, end, _ in expected]
    return trajectories


@pytest.fixture
def walk_id():
    gym.register("eyas/Walk-v0", "helpers_walks:Walk")
    yield "eyas/Walk-v0"
    del gym.registry["eyas/Walk-v0"]


def recipe_task(env_id, *around, **options):
    """A task as a recipe describes it; `around` are class names of gymnasium.wrappers with their arguments."""
    written = [{"class": f"gymnasium.wrappers:{name}", "args": args} for name, args in around]
    return build_task(TaskConfig.model_validate({"env": env_id, "wrappers": written, **options}))


# ----------------------------------------------------------------------------------------------- rewards


def test_a_transformed_reward_is_the_environment_s_own():
    trajectories = in_place(lambda: wrappers.TransformReward(Walk(3), lambda r: 10 * r - 1), always("0"), 0)
    assert [rewards_of(t) for t in trajectories] == [[9.0, 19.0, 29.0]] * 2
    assert trajectories[0].total_return == 57.0


def test_a_clipped_reward_is_the_environment_s_own(walk_id):
    (t,) = play(recipe_task(walk_id, ("ClipReward", {"max_reward": 2}), env_args={"length": 4}), always("0"), [0])
    assert rewards_of(t) == [1.0, 2.0, 2.0, 2.0]


def test_a_normalised_reward_depends_on_what_its_own_environment_saw():
    make = lambda: wrappers.NormalizeReward(Walk(3), gamma=0.5)  # noqa: E731
    first, second = in_place(make, always("0"), 0)
    assert rewards_of(first) != rewards_of(second)  # its statistics go on from episode to episode


# ----------------------------------------------------------------------------------------------- episodes


def test_a_time_limit_truncates_and_shows_the_final_observation():
    (t, _) = in_place(lambda: wrappers.TimeLimit(Walk(), 3), always("0"), 0)
    assert t.stop_reason is StopReason.TRUNCATED
    assert "at 3" in prompt_text(t.final_messages)


@pytest.mark.parametrize("outer", [wrappers.TimeLimit, wrappers.RecordEpisodeStatistics])
def test_episode_statistics_agree_with_the_trajectory_whichever_wrapper_is_outside(outer):
    kept = []

    class Keep(gym.Wrapper):
        def step(self, action):
            result = self.env.step(action)
            kept.extend([result[4]["episode"]] if "episode" in result[4] else [])
            return result

    limit = {"max_episode_steps": 4}
    around = [(wrappers.TimeLimit, limit), (wrappers.RecordEpisodeStatistics, {})]
    if outer is wrappers.TimeLimit:
        around.reverse()

    def make():
        env = Walk(4 if outer is wrappers.TimeLimit else None)
        for wrapper, args in around:
            env = wrapper(env, **args)
        return Keep(env)

    trajectories = play(text_task(make), always("0"), range(3))
    assert [(t.total_return, t.num_steps) for t in trajectories] == [(k["r"], k["l"]) for k in kept] == [(10.0, 4)] * 3


def test_order_enforcing_and_the_passive_checker_are_content(recwarn):
    """`gym.make` puts both around every environment: never a step before a reset, nor a frame before one."""
    task = recipe_task("FrozenLake-v1", env_args={"max_episode_steps": 5})
    names, env = [], task.make_env()
    while isinstance(env, gym.Wrapper):
        names.append(type(env).__name__)
        env = env.env
    assert {"OrderEnforcing", "PassiveEnvChecker", "TimeLimit"} <= set(names)
    trajectories = play(task, nonsense(), range(6), num_envs=2)
    assert len(trajectories) == 6 and all(t.num_steps <= 5 for t in trajectories)
    assert not [w for w in recwarn if "gymnasium" in str(w.filename)]


class Sloppy(Walk):
    """What the passive checker warns of: a reward and endings of other types, an observation outside the space."""

    observation_space = spaces.Text(3, charset="at ")

    def step(self, action):
        observation, _, terminated, truncated, info = super().step(action)
        return observation, np.array([1]), int(terminated), np.bool_(truncated), info


def test_what_the_passive_checker_warns_of_does_not_end_an_episode():
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        trajectories = play(text_task(lambda: wrappers.PassiveEnvChecker(Sloppy(3))), always("0"))
    assert [rewards_of(t) for t in trajectories] == [[1.0] * 3] * 2
    assert all(t.stop_reason is StopReason.TERMINATED for t in trajectories)
    assert any("terminated" in str(w.message) for w in warned)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_autoreset_wrapper_shows_no_old_state(walk_id, workers):
    task = recipe_task(walk_id, ("Autoreset", {}), env_args={"length": 2})
    for t in play(task, always("0"), range(3), workers=WorkersConfig(count=workers)):
        assert [f"at {k}" in prompt_text(s.messages) for k, s in enumerate(t.steps)] == [True, True]
        assert rewards_of(t) == [1.0, 2.0]  # a step that only resets would be paid 0


# ----------------------------------------------------------------------------------------------- observations


def test_stacked_observations_are_shown_whole():
    def make():
        return wrappers.FrameStackObservation(wrappers.TimeLimit(Slide(), 3), 2)

    (t, _) = in_place(make, always("0.5"), np.array([0.5], np.float32))
    texts = [prompt_text(m) for m in [*(s.messages for s in t.steps), t.final_messages]]
    assert all(make().observation_space.shape == (2, 2) for _ in texts)
    for text, numbers in zip(texts, ([0, 0], [0, 0.5], [0.5, 1], [1, 1.5])):
        assert all(f"{n:g}" in text for n in numbers), text
    alone = prompt_text(play(text_task(lambda: wrappers.TimeLimit(Slide(), 3)), always("0.5"))[0].steps[2].messages)
    assert len(texts[2]) > len(alone)  # the wrong variant: the inner space


def pictures(trajectory):
    return [[p.image_hash for m in s.messages for p in m.parts if isinstance(p, ImagePart)] for s in trajectory.steps]


def test_stacked_pictures_are_that_many_pictures_a_step():
    def stack():
        copied = wrappers.TransformObservation(
            Uneven(), np.copy, None
        )  # a stack keeps what it gets, and copies nothing
        return wrappers.FrameStackObservation(copied, 2)

    plain = play(text_task(Uneven), always("0"), range(6))
    stacked = play(text_task(stack), always("0"), range(6))
    assert max(len(t.steps) for t in plain) > 2
    for one, two in zip(plain, stacked, strict=True):
        alone = [shown[0] for shown in pictures(one)]
        assert pictures(two) == [[a, b] for a, b in zip([alone[0], *alone], alone)]


@pytest.mark.parametrize(
    ("make", "there", "gone"),
    [
        (lambda: wrappers.TransformObservation(Walk(3), lambda o: o.upper(), spaces.Text(40)), "AT 1", " at 1"),
        (
            lambda: wrappers.RescaleObservation(wrappers.TimeLimit(Slide(), 3), np.float32(-1), np.float32(1)),
            "0.01",
            "0.5",
        ),
        (lambda: wrappers.FilterObservation(InParts(3), ["left"]), "at 1", "right"),
        (
            lambda: wrappers.TimeAwareObservation(wrappers.TimeLimit(InParts(), 3), flatten=False),
            "time: [1]",
            "time: [0]",
        ),
    ],
)
def test_observation_wrappers_are_read_by_their_own_spaces(make, there, gone):
    actor = always("1" if isinstance(make().action_space, spaces.Discrete) else "0.5")
    text = prompt_text(play(text_task(make), actor)[0].steps[1].messages)
    assert there in text and gone not in text


class InParts(Walk):
    observation_space = spaces.Dict(left=spaces.Text(40), right=spaces.Discrete(10))

    def observe(self):
        return {"left": super().observe(), "right": 9}


# ----------------------------------------------------------------------------------------------- actions


def test_a_rescaled_action_is_asked_for_and_given_in_the_outer_space():
    made = []

    def make():
        made.append(Slide(length=2))
        return wrappers.RescaleAction(made[-1], np.float32(-1), np.float32(1))

    (t,) = play(text_task(make), always("0.5"), [0])
    assert "between -1.00 and 1.00" in prompt_text(t.steps[0].messages)
    assert [s.action.tolist() for s in t.steps] == [[0.5], [0.5]]
    assert [a.tolist() for a in made[-1].actions] == [[1.0], [1.0]]
    assert rewards_of(t) == [1.0, 1.0]
    (out_of_range,) = play(text_task(make), always("1.5"), [0])  # what the inner space would allow
    assert out_of_range.num_fallbacks == 2


def test_a_transformed_action_has_the_outer_space():
    made = []

    def make():
        made.append(Walk(2))
        return wrappers.TransformAction(made[-1], lambda a: 2 - a, spaces.Discrete(2))

    (t,) = play(text_task(make), always("0"), [0])
    assert [s.action for s in t.steps] == [0, 0] and made[-1].actions == [2, 2]
    assert [s.legal_actions for s in t.steps] == [(0, 1), (0, 1)]


def test_a_sticky_action_is_drawn_from_the_seed():
    def make():
        return wrappers.StickyAction(wrappers.TransformReward(Walk(6), float), repeat_action_probability=0.5)

    one, other = (play(text_task(make), always("1"), range(3), num_envs=n) for n in (1, 3))
    assert [rewards_of(t) for t in one] == [rewards_of(t) for t in other]


# ----------------------------------------------------------------------------------------------- pictures


class Filming(gym.Wrapper):
    """Draws a frame after every reset and step, as a wrapper that films does, and refuses what draws none."""

    films: list = []  # noqa: RUF012

    def __init__(self, env):
        super().__init__(env)
        if env.render_mode != "rgb_array":
            raise ValueError("this environment draws nothing")

    def reset(self, **options):
        result = self.env.reset(**options)
        self.films.append([self.env.render()])
        return result

    def step(self, action):
        result = self.env.step(action)
        self.films[-1].append(self.env.render())
        return result


@pytest.fixture
def filming(monkeypatch):
    module = types.ModuleType("filming_wrappers")
    module.Filming = Filming
    monkeypatch.setitem(sys.modules, "filming_wrappers", module)
    Filming.films.clear()
    return ["filming_wrappers:Filming"]


def test_a_wrapper_that_films_gets_an_environment_that_draws(walk_id, filming):
    """Words need no frames, so without the wrapper nothing would be drawn."""
    assert make_env(walk_id).render_mode is None
    env = make_env(walk_id, {}, filming)
    assert env.render_mode == "rgb_array"
    task = build_task(
        TaskConfig.model_validate({"env": walk_id, "env_args": {"length": 2}, "wrappers": [{"class": filming[0]}]})
    )
    play(task, always("0"), range(2))
    assert [[int(frame[0, 0, 0]) for frame in film] for film in Filming.films] == [[0, 1, 2]] * 2


def test_a_wrapper_that_cannot_be_made_says_so_also_where_the_environment_draws(walk_id):
    with pytest.raises(ConfigError, match=r"TimeLimit.*max_episode_steps"):
        make_env(walk_id, {}, [{"class": "gymnasium.wrappers:TimeLimit", "args": {"max_episode_steps": -1}}])


@pytest.fixture
def videos(monkeypatch):
    """Videos that are written: a stand-in for the video library, which Gymnasium asks for but does not bring."""
    written = {}

    class ImageSequenceClip:
        def __init__(self, frames, fps):
            self.frames, self.fps = list(frames), fps

        def write_videofile(self, path, logger=None):
            written[Path(path).name] = [int(frame[0, 0, 0]) for frame in self.frames]

    clips = types.ModuleType("moviepy.video.io.ImageSequenceClip")
    clips.ImageSequenceClip = ImageSequenceClip
    for name in ("moviepy", "moviepy.video", "moviepy.video.io"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, clips.__name__, clips)
    return written


@pytest.mark.filterwarnings("ignore:.*Overwriting existing videos")
@pytest.mark.parametrize(("show", "num_pictures"), [("auto", 1), ("text", 0)])
def test_record_video_films_each_episode_whole(walk_id, videos, tmp_path, show, num_pictures):
    """The frames of reset and every step, the last one included, whether or not the prompts show frames too."""
    film = ("RecordVideo", {"video_folder": str(tmp_path)})
    task = recipe_task(walk_id, film, env_args={"length": 3}, interface={"show": show})
    trajectories = play(task, always("0"), range(2))
    assert [rewards_of(t) for t in trajectories] == [[1.0, 2.0, 3.0]] * 2
    assert [len(shown) for t in trajectories for shown in pictures(t)] == [num_pictures] * 6
    assert videos == {f"rl-video-episode-{n}.mp4": [0, 1, 2, 3] for n in range(2)}
