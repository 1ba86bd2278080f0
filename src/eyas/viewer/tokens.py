"""What each sampled token says, by the tokenizer that lies beside a run's weights. No model is loaded."""

import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

from eyas.viewer.folders import File, RunFolder

MAX_BYTES = 64 * 2**20
_FILE = "tokenizer.json"


class Tokenizers:
    """The tokenizer of the run that was looked at last: a large one takes a hundred megabytes."""

    def __init__(self) -> None:
        self._last: tuple[File, Tokenizer | None] | None = None
        self._lock = threading.Lock()

    def of(self, run: RunFolder) -> Tokenizer | None:
        """None where no checkpoint of the run has one that can be read."""
        names = run.folders("checkpoints")
        files = [file for name in reversed(names) if (file := run.file("checkpoints", name, _FILE)) is not None]
        if not files or files[0].size > MAX_BYTES:
            return None
        with self._lock:
            if self._last is None or self._last[0] != files[0]:
                self._last = files[0], _load(files[0])
            return self._last[1]


def _load(file: File) -> Tokenizer | None:
    try:
        return Tokenizer.from_file(str(file.path))
    except Exception:  # the library raises bare Exception for what is no tokenizer
        return None


def token_texts(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    """The text of each token; together they are that of all. Bytes of an unfinished character come with its last one."""
    stream = DecodeStream(skip_special_tokens=False)
    texts: list[str] = []
    for token in ids:
        try:
            texts.append(stream.step(tokenizer, token) or "")
        except Exception:  # an id that the tokenizer does not have, or bytes that are no text
            stream = DecodeStream(skip_special_tokens=False)
            texts.append(f"<{token}>")
    return texts


def describe_tokens(
    tokenizer: Tokenizer | None,
    ids: Sequence[int] | None,
    logprobs: Sequence[float] | None,
    action_start: int | None,
    scores_start: int | None,
) -> list[dict[str, Any]] | None:
    """`text`, `logprob` and `is_thought` of each token; None without ids or a tokenizer.

    A token is the thought's where its text ends before the action begins, character `action_start`; of a scored action,
    where it lies before token `scores_start`.
    """
    if tokenizer is None or ids is None:
        return None
    end, tokens = 0, []
    for index, text in enumerate(token_texts(tokenizer, ids)):
        end += len(text)
        is_thought = index < scores_start if scores_start is not None else end <= (action_start or 0)
        logprob = logprobs[index] if logprobs is not None and index < len(logprobs) else None
        tokens.append({"text": text, "logprob": logprob, "is_thought": is_thought})
    return tokens


def add_learning(tokens: Sequence[dict[str, Any]], row: Mapping[str, Any], scores: Mapping[str, Any] | None) -> None:
    """Adds what learning made of each token: `learner_logprob`, `ratio` and `advantage`, None where unknown.

    The ratio is the probability at the learner's last pass over the sampler's. An action that was scored is one element:
    its tokens share its ratio, and their log-probs move by as much as the action's did.
    """
    first, last, credit = (row[name] or () for name in ("learner_logprobs", "updated_logprobs", "token_advantages"))
    for index, token in enumerate(tokens):
        is_scored = scores is not None and index >= scores["start"]
        element = scores["start"] if scores is not None and is_scored else index
        sampled = scores["logprobs"][scores["chosen"]] if scores is not None and is_scored else token["logprob"]
        is_known = sampled is not None and token["logprob"] is not None
        gap = first[element] - sampled if is_known and element < len(first) else None
        token["learner_logprob"] = None if gap is None else token["logprob"] + gap
        token["ratio"] = math.exp(min(50.0, last[element] - sampled)) if is_known and element < len(last) else None
        token["advantage"] = credit[element] if element < len(credit) else row["advantage"]
