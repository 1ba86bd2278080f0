"""How a run's thoughts fare: what its log says of each iteration, with a few of them."""

from typing import Any

from eyas.viewer.episodes import examples
from eyas.viewer.folders import RunFolder
from eyas.viewer.index import EpisodeIndex
from eyas.viewer.progress import read_records

# The numbers are those of the log: they are computed once, by the trainer.
MEASURES = {
    "unique_share": "rollout/thought_unique_share",
    "parse_rate": "rollout/parse_rate",
    "recognition_accuracy": "rollout/recognition_accuracy",
    "entropy_nats": "rollout/entropy_nats",
    "thought_entropy_nats": "rollout/thought_entropy_nats",
    "action_entropy_nats": "rollout/action_entropy_nats",
    "completion_length_tokens": "rollout/completion_length_tokens",
}
THOUGHT = "rollout/thought_"  # whatever else the log says of thoughts is told too


def thought_health(run: RunFolder, index: EpisodeIndex, stage: str | None = None) -> dict[str, Any]:
    """`iterations`: stage, iteration, the measures (None where unknown), warnings and up to five examples, in the log's order."""
    entries: dict[tuple[str, int], dict[str, Any]] = {}
    place, records = 0, [{}]
    while records:
        records, place, _ = read_records(run, place)
        for record in records:
            if any(key in record for key in MEASURES.values()) and isinstance(record.get("iteration"), int):
                named = {n: record.get(k) for n, k in MEASURES.items()}
                others = {k for k in record if k.startswith(THOUGHT)} - set(MEASURES.values())
                named |= {k.removeprefix(THOUGHT): record[k] for k in sorted(others)}
                named["warnings"] = _texts(record.get("warnings"))
                entries[str(record.get("stage")), record["iteration"]] = named
    found = examples(index)
    keys = [key for key in dict.fromkeys([*entries, *found]) if stage in (None, key[0])]
    unknown = dict.fromkeys(MEASURES) | {"warnings": []}
    iterations = [
        {"stage": k[0], "iteration": k[1], **entries.get(k, unknown), "examples": found.get(k, [])[:5]} for k in keys
    ]
    return {"iterations": iterations}


def _texts(value: Any) -> list[str]:
    return [text for text in value if isinstance(text, str)] if isinstance(value, list) else []
