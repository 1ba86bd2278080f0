"""The checkpoints of a run, and the commands that play them: the viewer itself starts nothing."""

import shlex
from typing import Any

from eyas.viewer.documents import number, read_config, read_json, tables
from eyas.viewer.folders import RunFolder


def play_commands(run: RunFolder) -> dict[str, Any]:
    """`checkpoints`: the `name` of each, and its `commands` by environment, quoted for a shell.

    The newest comes first, and those of side branches after all that the run went through.
    """
    _, config = read_config(run, [])
    branches = {stage.get("name") for stage in tables(config, "stages") if stage.get("is_side_branch")}
    envs = [str(task["env"]) for task in tables(config, "tasks") if "env" in task]
    found = []
    for name in run.folders("checkpoints"):
        sequence = number(read_json(run, "checkpoints", name, "manifest.json", notes=[]).get("sequence"))
        if sequence is not None:
            found.append((name not in branches, sequence, name))
    return {"checkpoints": [{"name": name, "commands": _commands(run, name, envs)} for *_, name in sorted(found)[::-1]]}


def _commands(run: RunFolder, name: str, envs: list[str]) -> dict[str, str]:
    folder = str(run.path / "checkpoints" / name)
    return {env: shlex.join(["eyas", "play", env, "--checkpoint", folder]) for env in envs}
