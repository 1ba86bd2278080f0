"""The baseline ladder of a run: every row on the same evaluation seeds, then the report."""

import time
from collections.abc import Iterator, Sequence
from typing import Any

from eyas.config import UNTRAINED, EvalStage, RLStage, SFTStage
from eyas.evaluation.evaluate import Played, best_constant_action, evaluation_row, play
from eyas.evaluation.measures import a_few
from eyas.evaluation.records import EvalReport, EvalRow
from eyas.evaluation.report import format_table, write_html_report
from eyas.files import write_atomically
from eyas.rollouts.actors import Actor, ConstantActor, ExpertActor, PolicyActor, RandomActor
from eyas.rollouts.images import MemoryImageStore
from eyas.seeding import Split
from eyas.training.films import save_film
from eyas.training.progress import StageProgress
from eyas.training.run import Run
from eyas.types import ImagePart, Trajectory

SCRIPTED = ("random", "constant", "expert")
TEMPERATURE = {"greedy": 0.0, "sample": 1.0}
SHOWN_EPISODES = 3  # a policy, in the report
SHOWN_OF = 50  # the first episodes, of which those are chosen


def evaluate_ladder(run: Run, stage: EvalStage) -> None:
    """Plays each row, writes `eval/NAME.json`, `report.json` and `report.html`, and prints the table."""
    task = run.tasks[stage.task]
    begun = time.perf_counter()
    rows: list[EvalRow] = []
    shown: list[Trajectory] = []
    plan = list(ladder(run, stage))
    with StageProgress(run.console, f"{stage.name}: {stage.episodes} episodes a row", len(plan)) as progress:
        for index, (name, decoding) in enumerate(plan):
            played = play_row(run, stage, name, decoding)
            row = evaluation_row(name, decoding, played, task.interface.format.fact_keys, run.training_starts)
            rows.append(row)
            # their pictures are kept by number: that one was lost brings no other into their place
            kept = [t for t in played.trajectories if t.episode < SHOWN_OF]
            episodes = a_few(kept, SHOWN_EPISODES) if name not in SCRIPTED else []
            if episodes:
                file = f"{stage.name}-{name}-{decoding}_{0:06d}"
                name_of = {task.index: task.interface.name_of}
                run.recorder.record(file, episodes, name_of, stage=stage.name, iteration=0, env_id=task.env_id)
                film = f"{stage.name}-{name}-{decoding}"
                save_film(run, film, task, episodes[0], run.images, film)
            shown = episodes or shown  # of the last policy that learned
            run.images.discard_except(image_hashes(shown))
            progress.update(index + 1, {f"{name} {decoding}": row.strict_success_rate})
    run.policy.load_weights(run.checkpoint(run.state["stands_at"]))
    env_args = run.config.tasks[stage.task].env_args
    report = EvalReport.create(task.env_id, env_args, stage.seed, tuple(rows), time.perf_counter() - begun)
    text = report.to_json().encode()
    (run.folder / "eval").mkdir(exist_ok=True)
    for path in (run.folder / "eval" / f"{stage.name}.json", run.folder / "report.json"):
        write_atomically(path, lambda file: file.write(text))
    write_html_report(run.folder, report, run.folder / "report.html", shown, run.images)
    run.images.clear()
    run.console.print(format_table(report))


def evaluate_curve(run: Run, stage: RLStage, iteration: int) -> dict[str, float | None]:
    """The curve between evaluations, on validation seeds: the final evaluation's seeds stay unseen.

    The first episode, played greedily, becomes a film.
    """
    task, numbers = run.tasks[0], {}
    for decoding, temperature in TEMPERATURE.items():
        is_filmed = run.config.films and decoding == "greedy"
        images = MemoryImageStore()  # its own: the run's holds what training still needs, and this one may drop all
        run.images.attach(images)
        try:
            played = play(
                task,
                PolicyActor(run.policy, temperature),
                images,
                run.config.seed,
                range(stage.evaluate_episodes),
                Split.VALIDATION,
                keep_pictures_below=int(is_filmed),
                **playing_options(run, stage.num_envs),
            )
            if is_filmed and played.trajectories[0].episode == 0:
                name = f"{stage.name}_{iteration:06d}"
                save_film(run, name, task, played.trajectories[0], images, stage.name, iteration)
        finally:
            run.images.detach(images)
        row = evaluation_row("rl", decoding, played, task.interface.format.fact_keys)
        numbers[f"eval/strict_success_rate_{decoding}"] = row.strict_success_rate
        numbers[f"eval/return_mean_{decoding}"] = row.return_mean
    return numbers


def image_hashes(trajectories: Sequence[Trajectory]) -> set[str]:
    prompts = [step.messages for t in trajectories for step in t.steps]
    return {p.image_hash for messages in prompts for m in messages for p in m.parts if isinstance(p, ImagePart)}


def ladder(run: Run, stage: EvalStage) -> Iterator[tuple[str, str]]:
    """(policy, decoding) of each row. Scripted players have one decoding only."""
    for row in run.config.ladder_rows(stage):
        task = run.tasks[stage.task]
        if (row == "expert" and task.expert is None) or (row == "constant" and not task.interface.constants()):
            continue
        if row in SCRIPTED:
            yield row, "sample" if row == "random" else "greedy"
        else:
            yield from ((row, decoding) for decoding in stage.decodings)


def playing_options(run: Run, num_envs: int) -> dict[str, Any]:
    """How environments run, for `play`."""
    config = run.config
    return {
        "num_envs": num_envs,
        "max_failures_in_a_row": config.max_env_failures_in_a_row,
        "workers": config.workers,
    }


def play_row(run: Run, stage: EvalStage, name: str, decoding: str) -> Played:
    task, episodes = run.tasks[stage.task], range(stage.episodes)
    actor = actor_of(run, stage, name, decoding)
    options = playing_options(run, stage.num_envs)
    return play(task, actor, run.images, stage.seed, episodes, keep_pictures_below=SHOWN_OF, **options)


def actor_of(run: Run, stage: EvalStage, name: str, decoding: str) -> Actor:
    task = run.tasks[stage.task]
    if name == "random":
        return RandomActor()
    if name == "constant":
        return ConstantActor(best_constant_action(task, run.images, stage.seed, **playing_options(run, stage.num_envs)))
    if name == "expert":
        return ExpertActor()
    run.policy.load_weights(run.checkpoint(checkpoint_name(run, stage, name)))
    return PolicyActor(run.policy, TEMPERATURE[decoding])


def checkpoint_name(run: Run, stage: EvalStage, row: str) -> str:
    """The last stage before this one that makes the row's weights."""
    if row == "untrained":
        return UNTRAINED
    earlier = run.config.stages[: run.config.stages.index(stage)]
    kinds = {
        "rl": lambda s: isinstance(s, RLStage),
        "sft": lambda s: isinstance(s, SFTStage) and not s.is_side_branch,
        "sft_continued": lambda s: isinstance(s, SFTStage) and s.is_side_branch,
    }
    return [s.name for s in earlier if kinds[row](s)][-1]
