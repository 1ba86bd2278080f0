"""The films that a run makes of itself: one of each evaluation."""

import logging

from eyas.evaluation.film import gif_bytes, shots, write_film
from eyas.evaluation.statistics import thinned
from eyas.rollouts.task import Task
from eyas.training.run import Run
from eyas.types import ImageStore, Trajectory

log = logging.getLogger(__name__)

MOST_FRAMES = 100  # of a longer episode, as many of its steps are shown


def save_film(
    run: Run, name: str, task: Task, trajectory: Trajectory, images: ImageStore, stage: str, iteration: int = 0
) -> None:
    """Writes `films/NAME.webp` and shows it to the trackers. Whatever goes wrong costs the film, never the run."""
    if not run.config.films or not trajectory.steps:
        return
    heading = f"{task.env_id} · {name} · episode {trajectory.episode}"
    try:
        shown = thinned(shots(trajectory, heading, task.interface.name_of), MOST_FRAMES)
        write_film(shown, images, run.folder / "films" / f"{name}.webp")
        if run.config.track:
            run.show_film(stage, iteration, gif_bytes(shown, images))
    except Exception as error:
        log.warning("the film %s could not be made: %s", name, error)
