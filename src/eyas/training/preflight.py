"""What a run would do, before it does anything."""

from typing import Any

from rich.table import Table

from eyas.config import CollectStage, EvalStage, RLStage, SFTStage
from eyas.training.loop import total_updates
from eyas.training.run import Run


def preflight(run: Run) -> tuple[Table, list[str]]:
    """What the run would do: parameters, tokens a step, updates of each stage, memory of the weights and optimizer.

    And the environments whose first prompt leaves no room for a completion, where the policy plays at all.
    """
    too_long: list[str] = []
    table = Table("part", "what", title=f"preflight of {run.folder}", box=None, title_justify="left")
    model = run.policy.model
    parameters = sum(p.numel() for p in model.parameters())
    learning = [p for part in (model, run.policy.critic) for p in part.parameters() if p.requires_grad]
    stored = [*model.parameters(), *run.policy.critic.parameters()]
    nbytes = sum(p.numel() * p.element_size() for p in stored) + 12 * sum(p.numel() for p in learning)
    table.add_row(
        "model",
        f"{run.config.model.name}: {parameters / 1e6:.2f} M parameters on {model.device}, "
        f"{sum(p.numel() for p in learning) / 1e6:.2f} M learn, the critic's included",
    )
    table.add_row("memory", f"{nbytes / 2**30:.2f} GiB for weights, gradients and AdamW, activations not counted")
    for task in run.tasks:
        env = task.make_env()
        observation, info = env.reset(seed=0)
        frame = env.render() if task.interface.renders else None
        messages = task.interface.render(observation, info, frame, run.images)  # type: ignore[arg-type]
        tokens = len(model.encode(messages, run.images).ids)
        room = "fits"
        if not run.policy.fits(messages, task.interface.most_tokens):
            room = "does NOT fit"
            too_long.append(task.env_id)
        table.add_row(
            task.env_id,
            f"prompt {tokens} tokens, completion up to {task.interface.max_new_tokens}; {room} into {model.context}; "
            f"expert: {'yes' if task.expert else 'none'}",
        )
        env.close()
    for stage in run.config.stages:
        table.add_row(stage.name, _plan(stage))
    plays = any(isinstance(s, RLStage | EvalStage) or getattr(s, "policy", "") == "self" for s in run.config.stages)
    return table, list(dict.fromkeys(too_long)) if plays else []


def _plan(stage: Any) -> str:
    if isinstance(stage, CollectStage):
        return f"{stage.episodes} episodes of {stage.policy}"
    if isinstance(stage, SFTStage):
        return f"{stage.steps or 'as many as ' + str(stage.steps_like)} updates of {stage.batch_size} samples"
    if isinstance(stage, RLStage):
        return f"{stage.iterations} iterations of {stage.algorithm.name}, {total_updates(stage)} updates"
    return f"{stage.episodes} episodes a row, decodings {', '.join(stage.decodings)}"
