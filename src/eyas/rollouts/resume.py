"""Running episodes of a checkpoint: their seeds and actions are saved, and played again."""

from collections.abc import Mapping
from typing import Any

from eyas.rollouts.encoding import decode_action, decode_completion, encode_action, encode_completion
from eyas.rollouts.episode import Running
from eyas.types import Completion, ImageStore


def state_of(running: Running) -> dict[str, Any]:
    """What it takes to play an episode again up to where it stands."""
    return {
        "slot": running.slot,
        "episode": running.episode,
        "actions": [encode_action(a) for a in running.actions],
        # in a conversation, what the model wrote belongs to the prompts to come
        "completions": [encode_completion(m.completion) for m in running.messages if m.completion is not None],
        "return_before": running.return_before,
        "fallbacks_before": running.fallbacks_before,
        "parse_failures": running.parse_failures,
    }


def repeat(running: Running, state: Mapping[str, Any], images: ImageStore) -> tuple[Any, ...] | None:
    """Does what was done at the prompt that the episode stands at. Returns the moves to play; None at the record's end."""
    while (index := len(running.actions)) < len(state["actions"]):
        action = decode_action(state["actions"][index])
        written = decode_completion(state["completions"][index]) if state["completions"] else Completion("")
        running.remember(written, action)
        if action is not None:
            return running.interface.moves(action)
        running.show_again(images)
    running.return_before, running.fallbacks_before = state["return_before"], state["fallbacks_before"]
    running.parse_failures = state["parse_failures"]
    return None
