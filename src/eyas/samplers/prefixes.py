"""What was read before: keys and values of prefixes that later prompts begin with, for as long as the weights stay."""

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np

from eyas.models.adapter import EncodedPrompt
from eyas.samplers.slots import KeyValues

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

    def find(self, prompt: EncodedPrompt, goes_on: bool = False) -> tuple[KeyValues, int] | None:
        """The longest known beginning of a prompt, never all of it, and how many of its pictures lie in it.

        With `goes_on` a conversation is handed over: what will be kept of it next holds this beginning too.
        """
        if found := self._get(prompt.ids[:-1], prompt.image_hashes):
            return found, len(prompt.image_hashes)
        if prompt.resumes_at > 1:  # the last token of a completion was never read
            conversation = prompt.ids[: prompt.resumes_at - 1], prompt.image_hashes[: prompt.images_before]
            if found := self._get(*conversation):
                if goes_on:
                    self._drop(*conversation)
                return found, prompt.images_before
        for ids in sorted(self._texts, key=len, reverse=True):
            is_beginning = len(ids) < len(prompt.ids) and np.array_equal(prompt.ids[: len(ids)], ids)
            if is_beginning and (found := self._get(ids, ())):
                return found, 0
        return None

    def _get(self, ids: np.ndarray, image_hashes: tuple[str, ...]) -> KeyValues | None:
        key = ids.tobytes(), image_hashes
        if key in self._entries:
            self._entries.move_to_end(key)
        return self._entries.get(key)

    def _drop(self, ids: np.ndarray, image_hashes: tuple[str, ...]) -> None:
        self._nbytes -= self._entries.pop((ids.tobytes(), image_hashes)).nbytes

    def clear(self) -> None:
        self._entries, self._texts, self._nbytes = OrderedDict(), [], 0


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
