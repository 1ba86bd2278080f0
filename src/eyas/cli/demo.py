"""`eyas demo`"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from eyas.recipes import load_recipe

RECIPE = "numberline_ppo"
QUICK = (
    "stages.collect.episodes=40",
    "stages.sft.steps=8",
    "stages.sft.optim.warmup_steps=2",
    "stages.rl.iterations=2",
    "stages.rl.num_envs=8",
    "stages.rl.rollout_steps=4",
    "stages.rl.minibatch_size=16",
    "stages.sft_continued.batch_size=16",
    "stages.eval.episodes=10",
)
STORY = """\
A tiny vision-language model (about a million parameters, random weights) learns NumberLine from pictures.
  1. A mediocre player demonstrates: it reads truthfully, and plays half of its moves at random.
  2. Supervised fine-tuning learns to read, to write the format, and to play like that player.
  3. PPO improves the whole model from the reward. For comparison, fine-tuning goes on for as many updates.
  4. All are evaluated on the same unseen seeds, greedily and at temperature 1.
"""


def demo(
    output: Annotated[Path, typer.Option(help="Folder that gets the run's folder.")] = Path("runs"),
    seed: Annotated[int, typer.Option(min=0)] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Every part in a few seconds; nothing is learned.")] = False,
) -> None:
    """Show the whole story on a CPU in about two minutes: demonstrations, fine-tuning, RL, honest evaluation."""
    from eyas import build

    console = Console(stderr=True)
    console.print(STORY, highlight=False)
    overrides = [f"seed={seed}", f"model.seed={seed}", f"stages.eval.seed={seed}", *(QUICK if quick else ())]
    run = build.train(load_recipe(RECIPE, [f"name={_free_name(output)}", *overrides]), output=output)
    console.print(
        f"\nreport:  {run.folder / 'report.html'}\n"
        f"agent:   {run.folder / 'checkpoints' / 'rl'}\n"
        f"try it:  eyas eval {run.folder / 'checkpoints' / 'rl'} --env eyas/NumberLine-v0 --seed 1",
        highlight=False,
        soft_wrap=True,
    )


def _free_name(output: Path) -> str:
    """demo, demo-2, demo-3 ...: a demonstration never touches an earlier one."""
    names = ["demo", *(f"demo-{i}" for i in range(2, 1000))]
    return next(n for n in names if not (output / n).exists())
