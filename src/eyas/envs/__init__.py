"""Environments that ship with Eyas. Importing this module registers them with Gymnasium; their code loads on `make`."""

import gymnasium

ENTRY_POINTS = {
    "eyas/NumberLine-v0": "eyas.envs.numberline:NumberLineEnv",
    "eyas/EZPoints-v0": "eyas.envs.ezpoints:EZPointsEnv",
    "eyas/Points24-v0": "eyas.envs.points24:Points24Env",
    "eyas/Blackjack-v0": "eyas.envs.blackjack:BlackjackEnv",
}


def register_all() -> None:
    """Registers every environment of Eyas that Gymnasium does not know yet; a second call changes nothing."""
    for env_id, entry_point in ENTRY_POINTS.items():
        if env_id not in gymnasium.registry:
            gymnasium.register(id=env_id, entry_point=entry_point)


register_all()
