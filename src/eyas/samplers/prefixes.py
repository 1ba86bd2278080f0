"""What was read before: keys and values of prefixes that later prompts begin with, for as long as the weights stay."""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from eyas.models.adapter import EncodedPrompt
from eyas.samplers.slots import NOTHING, KeyValues

LEAST_SHARED = 8  # tokens by which prompts are told to begin alike
LEAST_SAVED = 256  # tokens that a pass of its own over a shared beginning has to save
_Key = tuple[bytes, tuple[str, ...]]


class PrefixStore:
    """Keys and values by the exact token ids and pictures behind them; the longest unused go first."""

    def __init__(self, most_bytes: int):
        self.most_bytes = most_bytes
        self._entries: OrderedDict[_Key, KeyValues] = OrderedDict()
        self._texts: list[np.ndarray] = []  # beginnings without pictures that several prompts share
        self._nbytes = 0

    def put(self, ids: np.ndarray, image_hashes: Sequence[str], read: KeyValues) -> None:
        key = ids.tobytes(), tuple(image_hashes)
        if key in self._entries or read.nbytes > self.most_bytes:
            return
        self._entries[key] = read
        self._nbytes += read.nbytes
        while self._nbytes > self.most_bytes:
            self._nbytes -= self._entries.popitem(last=False)[1].nbytes

    def put_text(self, ids: np.ndarray, read: KeyValues) -> None:
        self.put(ids, (), read)
        self._texts.append(ids)

    def find(self, prompt: EncodedPrompt) -> tuple[KeyValues, int]:
        """The longest known beginning of a prompt, never all of it, and how many of its pictures lie in it."""
        if (key := _conversation(prompt)) in self._entries:
            self._entries.move_to_end(key)
            return self._entries[key], prompt.images_before
        for ids in sorted(self._texts, key=len, reverse=True):
            is_beginning = len(ids) < len(prompt.ids) and np.array_equal(prompt.ids[: len(ids)], ids)
            if is_beginning and (key := (ids.tobytes(), ())) in self._entries:
                self._entries.move_to_end(key)
                return self._entries[key], 0
        return NOTHING, 0

    def hand_over(self, prompts: Sequence[EncodedPrompt]) -> list[tuple[KeyValues, int]]:
        """What is found of each. Conversations are dropped: what will be kept of them next holds their beginnings too."""
        found = [self.find(p) for p in prompts]
        for key in {_conversation(p) for p in prompts} & self._entries.keys():
            self._nbytes -= self._entries.pop(key).nbytes
        return found

    def clear(self) -> None:
        self._entries, self._texts, self._nbytes = OrderedDict(), [], 0


def _conversation(prompt: EncodedPrompt) -> _Key:
    """What was read of a prompt when its last completion was written: all of it but that one's last token."""
    return prompt.ids[: max(0, prompt.resumes_at - 1)].tobytes(), prompt.image_hashes[: prompt.images_before]


def shared_texts(prompts: Sequence[EncodedPrompt], image_id: int | None) -> list[np.ndarray]:
    """Beginnings of words that several of these prompts share, and that are worth being read once."""
    alike: dict[bytes, list[np.ndarray]] = {}
    for prompt in prompts:
        text = prompt.ids[:-1] if image_id is None else prompt.ids[:-1][: _before(prompt.ids[:-1], image_id)]
        if len(text) >= LEAST_SHARED:
            alike.setdefault(text[:LEAST_SHARED].tobytes(), []).append(text)
    found = []
    for texts in alike.values():
        shortest = min(len(t) for t in texts)
        stacked = np.stack([t[:shortest] for t in texts])
        length = _before((stacked != stacked[0]).any(0), True)
        if (len(texts) - 1) * length >= LEAST_SAVED:
            found.append(stacked[0, :length])
    return found


def _before(values: np.ndarray, wanted: object) -> int:
    """How many values lie before the first that equals `wanted`."""
    places = np.flatnonzero(values == wanted)
    return int(places[0]) if len(places) else len(values)
