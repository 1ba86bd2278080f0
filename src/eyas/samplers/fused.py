"""A lean decode step for decoders built like Llama: fewer, larger products, and a prompt's keys read once for all its rows.

The library's own step spends more time on dispatch and on reading the same prompt's keys for each member of a group than on
arithmetic where the model is small. This one takes the same weights, joined once for each version of them.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyas.models.adapter import EncodedPrompt, VisionLanguageModel, additive_mask
from eyas.samplers.bank import COLUMNS, Bank
from eyas.samplers.prefixes import PrefixStore
from eyas.samplers.rows import OnPrompts, SlotRows
from eyas.samplers.slots import KeyValues, Layers, Read
from eyas.types import ImageStore

MOST_PARAMETERS = 300_000_000  # the joined weights are a copy
LEAST_SHARED = 1024  # tokens that need not be read in other rows: what makes a beginning worth a row of its own ...
LEAST_LENGTH = 64  # ... if it has as many itself: another bank costs each step as much as reading them
SHARED_BY = 2  # slots to a prompt on average, from which equal prompts share a row: where few do, all would pay for it
SAME = 1e-2  # of the largest hidden number: what rounding may do in bfloat16, and other formulas exceed


@dataclass(slots=True)
class _Layer:
    norm: tuple[Tensor, float]
    qkv: tuple[Tensor, Tensor | None]
    head_norms: tuple[tuple[Tensor, float], tuple[Tensor, float]] | None
    out: tuple[Tensor, Tensor | None]
    mlp_norm: tuple[Tensor, float]
    gate_up: tuple[Tensor, Tensor | None]
    down: tuple[Tensor, Tensor | None]
    activation: Any


class FusedWeights:
    """The weights of a decoder, joined. `of` gives None where the decoder is not built in this way."""

    def __init__(self, decoder: Any):
        attention = decoder.layers[0].self_attn
        self.embed = decoder.embed_tokens
        self.rotary = decoder.rotary_emb
        self.norm = decoder.norm.weight, decoder.norm.variance_epsilon
        self.head_dim = attention.head_dim
        self.num_heads = attention.q_proj.out_features // self.head_dim
        self.num_kv_heads = attention.k_proj.out_features // self.head_dim
        self.scaling = attention.scaling
        self.layers = [_joined(layer) for layer in decoder.layers]

    @classmethod
    @torch.no_grad()
    def of(cls, model: VisionLanguageModel) -> "FusedWeights | None":
        decoder = model.model.get_decoder()
        is_small = sum(p.numel() for p in decoder.parameters()) <= MOST_PARAMETERS
        return cls(decoder) if is_small and _is_like_llama(decoder) else None


_DECODER_PARTS = {"embed_tokens", "layers", "norm", "rotary_emb"}
_LAYER_PARTS = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
_ATTENTION_PARTS = {"q_proj", "k_proj", "v_proj", "o_proj"}


def _is_like_llama(decoder: Any) -> bool:
    """By its parts: whether it also computes the same is checked on the first tokens that are sampled."""

    def parts(module: nn.Module) -> set[str]:
        return {name for name, _ in module.named_children()}

    if (
        parts(decoder) - {"rotary_emb"} != _DECODER_PARTS - {"rotary_emb"}
        or type(decoder.embed_tokens) is not nn.Embedding
    ):
        return False
    frequencies = getattr(getattr(decoder, "rotary_emb", None), "inv_freq", None)
    if frequencies is not None and 2 * len(frequencies) != decoder.layers[0].self_attn.head_dim:
        return False  # only a part of each head is turned
    for layer in decoder.layers:
        if parts(layer) != _LAYER_PARTS or parts(layer.mlp) - {"act_fn"} != {"gate_proj", "up_proj", "down_proj"}:
            return False
        if parts(layer.self_attn) - {"q_norm", "k_norm", "rotary_emb"} != _ATTENTION_PARTS:
            return False
        linear = [m for part in (layer.self_attn, layer.mlp) for n, m in part.named_children() if n.endswith("_proj")]
        norms = [layer.input_layernorm, layer.post_attention_layernorm]
        if any(type(m) is not nn.Linear for m in linear) or not all(hasattr(n, "variance_epsilon") for n in norms):
            return False
    return True


def _norm(module: Any) -> tuple[Tensor, float]:
    return module.weight, module.variance_epsilon


def _linear(*modules: Any) -> tuple[Tensor, Tensor | None]:
    weights = [m.weight for m in modules]
    weight = torch.cat(weights) if len(weights) > 1 else weights[0]
    biases = [m.bias for m in modules]
    if all(b is None for b in biases):
        return weight, None
    return weight, torch.cat([m.weight.new_zeros(m.out_features) if m.bias is None else m.bias for m in modules])


def _joined(layer: Any) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    has_norms = hasattr(attention, "q_norm")
    return _Layer(
        norm=_norm(layer.input_layernorm),
        qkv=_linear(attention.q_proj, attention.k_proj, attention.v_proj),
        head_norms=(_norm(attention.q_norm), _norm(attention.k_norm)) if has_norms else None,
        out=_linear(attention.o_proj),
        mlp_norm=_norm(layer.post_attention_layernorm),
        gate_up=_linear(mlp.gate_proj, mlp.up_proj),
        down=_linear(mlp.down_proj),
        activation=mlp.act_fn,
    )


def _rms(x: Tensor, norm: tuple[Tensor, float]) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), norm[0], norm[1])


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """By angles whose sines are negative in the first half."""
    return torch.addcmul(x * cos, x.roll(x.shape[-1] // 2, -1), sin)


@dataclass(slots=True)
class _Prompt:
    """What a row of the bank was made from."""

    past: KeyValues  # what was read before it
    num_new: int  # tokens after that
    new: Layers | None = None  # their keys and values, where several completions go on with them


class FusedRows(SlotRows):
    """Rows whose prompts lie in a bank, once for all rows with the same, and whose new tokens lie in columns behind it.

    What different prompts begin with alike, such as conversations that began with the same prompt, lies in another bank.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        images: ImageStore,
        version: Hashable,
        on_prompts: OnPrompts,
        prefixes: PrefixStore | None,
        weights: FusedWeights,
    ):
        super().__init__(model, images, version, on_prompts, prefixes)
        self.weights = weights
        self.roots, self.prompts = Bank(0), Bank(0)
        self.written: list[list[Tensor]] = []  # of each layer keys and values (S, heads, C, D) of new tokens
        self.starts = np.zeros(0, dtype=np.int64)  # (S,): the column of the first token that each slot wrote
        self.end = 0  # columns written

    # ------------------------------------------------------------------------------------- what is held

    def _place(self, read: Read, rows: Tensor, slots: Tensor, is_needed_later: bool) -> None:
        taken, first, of_slots = np.unique(rows.cpu().numpy(), return_index=True, return_inverse=True)
        own = slots.cpu().numpy()
        # under autocast keys that were turned are float32: rounded once here, not by the product of each step
        layers = [(k.to(v.dtype), v) for k, v in read.layers]
        if not self.written:
            count, (_, heads, _, size) = len(self.positions), layers[0][0].shape
            self.roots, self.prompts, self.starts = Bank(count), Bank(count), np.zeros(count, dtype=np.int64)
            self.written = [[x.new_zeros(count, heads, COLUMNS, size) for x in pair] for pair in layers]
        num_rows = len(taken) + self.prompts.num_rows_beside(own)
        if SHARED_BY * num_rows > len(self.starts):  # a row of its own for each slot
            taken, first, of_slots = taken[of_slots], np.arange(len(own)), np.arange(len(own))
        lengths, pasts = read.lengths.cpu().numpy()[taken], [read.pasts[row] for row in taken]
        contents = [_Prompt(past, int(n) - past.length) for past, n in zip(pasts, lengths, strict=True)]
        roots = self._place_roots(pasts)
        of_roots = np.append(self.roots.lengths, 0)[roots]
        is_whole = np.array_equal(taken, np.arange(len(read.hidden)))
        if not self.prompts.layers and is_whole and not is_needed_later and not of_roots.any():
            self.prompts.adopt(layers, lengths, contents)
            places = taken
        else:
            new = layers if is_whole else [(k[taken], v[taken]) for k, v in layers]
            places = self.prompts.put(new, lengths - of_roots, contents, own[first])
        self.roots.owners[own], self.prompts.owners[own] = roots[of_slots], places[of_slots]
        self.starts[own] = self.end
        self._look()

    def _place_roots(self, pasts: Sequence[KeyValues]) -> np.ndarray:
        """Of each prompt the row of `roots` that holds what it begins with as others do, int (m,); -1: none."""
        counts = Counter(key for past in pasts for key in _beginnings(past))
        in_use = np.unique(self.roots.owners[self.roots.owners >= 0])
        known: dict[tuple[int, ...], int] = {tuple(map(id, self.roots.contents[row])): int(row) for row in in_use}
        found = np.full(len(pasts), -1)
        for index, past in enumerate(pasts):
            for count, key in reversed(list(enumerate(_beginnings(past), 1))):
                length = KeyValues(past.pieces[:count]).length
                is_worth_it = length >= LEAST_LENGTH and (counts[key] - 1) * length >= LEAST_SHARED
                if key not in known and is_worth_it:
                    known[key] = self._put_root(past.pieces[:count], length, [*in_use, *known.values()])
                # one that shares nothing follows where others do: its row, long by itself, would make all rows long
                shares_nothing = count == 1 and len(past.pieces) > 1
                if key not in known and known and shares_nothing:
                    known[key] = self._put_root(past.pieces[:1], length, [*in_use, *known.values()])
                if key in known:
                    found[index] = known[key]
                    break
        return found

    def _put_root(self, pieces: Sequence[Layers], length: int, used: Sequence[int]) -> int:
        layers = []
        for layer in range(len(pieces[0])):
            keys, values = (torch.cat([piece[layer][which] for piece in pieces], 1)[None] for which in range(2))
            layers.append((keys.to(values.dtype), values))  # those of texts that were read by themselves too
        return int(self.roots.put(layers, np.array([length]), [pieces], np.zeros(1, dtype=np.int64), used)[0])

    def _look(self) -> None:
        """What each slot sees: after every change of it."""
        device, columns = self.model.device, np.arange(self.written[0][0].shape[2])
        of_written = (columns >= self.starts[:, None]) & (columns < self.end)
        of_prompts = self.prompts.look(device)
        of_prompts[self.prompts.owners < 0, -1] = True  # a free slot sees something: what it writes stays finite
        sees = torch.from_numpy(np.concatenate([self.roots.look(device), of_prompts, of_written], 1)).to(device)
        self._mask = additive_mask(sees, self.hidden.dtype)[:, None, None]

    def keep(self, slots: Tensor) -> None:
        self.positions, self.hidden = self.positions[slots], self.hidden[slots]
        kept = slots.cpu().numpy()
        self.roots.keep(kept)
        self.prompts.keep(kept)
        self.starts = self.starts[kept]
        first = int(self.starts.min())  # columns before it belong to slots that were dropped
        self.starts, self.end = self.starts - first, self.end - first
        for own in self.written:
            own[:] = [
                torch.cat([w[slots, :, first:], w.new_zeros(len(kept), w.shape[1], first, w.shape[3])], 2) for w in own
            ]
        self._look()

    def release(self, slot: int) -> None:
        self.roots.owners[slot] = self.prompts.owners[slot] = -1

    def _held(self, slot: int, length: int) -> KeyValues:
        row, start = int(self.prompts.owners[slot]), self.starts[slot]
        prompt: Any = self.prompts.contents[row]
        past, after = prompt.past, int(self.positions[slot])
        end = start + length - past.length - prompt.num_new
        written = [[w[slot, :, start:end] for w in own] for own in self.written]
        if prompt.new is None and (self.prompts.owners == row).sum() == 1:
            of_prompt = self._of_prompt(row, prompt)
            joined = [
                [torch.cat(both, 1) for both in zip(*pair, strict=True)]
                for pair in zip(of_prompt, written, strict=True)
            ]
            return past.with_more(tuple((k, v) for k, v in joined), after)
        if prompt.new is None:  # of one piece for all: what goes on with it will see that it begins alike
            prompt.new = tuple((k.clone(), v.clone()) for k, v in self._of_prompt(row, prompt))
        return past.with_more(prompt.new, after).with_more(tuple((k.clone(), v.clone()) for k, v in written), after)

    def _of_prompt(self, row: int, prompt: _Prompt) -> Layers:
        begin = self.prompts.width - prompt.num_new
        return tuple((k[row, :, begin:], v[row, :, :, begin:].transpose(1, 2)) for k, v in self.prompts.layers)

    def _make_room(self) -> None:
        """One more column, and first those cut off that no slot needs."""
        if self.end == self.written[0][0].shape[2]:
            active = self.prompts.owners >= 0
            first = int(self.starts[active].min()) if active.any() else self.end
            self.starts = np.maximum(self.starts - first, 0)
            self.end -= first
            for own in self.written:
                own[:] = [
                    torch.cat([w[:, :, first:], w.new_zeros(*w.shape[:2], COLUMNS, w.shape[3])], 2)[
                        :, :, : self.end + COLUMNS
                    ].contiguous()
                    for w in own
                ]
            self._look()
        assert self._mask is not None
        self._mask[..., self.roots.width + self.prompts.width + self.end] = 0

    # ------------------------------------------------------------------------------------- one token more

    def step(self, ids: Tensor) -> None:
        self._make_room()
        weights = self.weights
        hidden = weights.embed(ids)
        cos, sin = (self._turned(x) for x in weights.rotary(hidden[:, None], self._axes()))
        sin = torch.cat([-sin[..., : sin.shape[-1] // 2], sin[..., sin.shape[-1] // 2 :]], -1)
        for number, layer in enumerate(weights.layers):
            attended = self._attend(number, _rms(hidden, layer.norm), cos, sin)
            hidden = hidden + F.linear(attended, *layer.out)
            gate, up = F.linear(_rms(hidden, layer.mlp_norm), *layer.gate_up).chunk(2, -1)
            hidden = hidden + F.linear(layer.activation(gate) * up, *layer.down)
        self.hidden = _rms(hidden, weights.norm)
        self.end += 1
        self.positions = self.positions + 1

    def _axes(self) -> Tensor:
        """Positions as the rotary embedding wants them: all axes of M-RoPE are equal at a word."""
        positions = self.positions[:, None]
        return positions.expand(3, -1, -1) if self.model.has_grid_positions else positions

    @staticmethod
    def _turned(angles: Tensor) -> Tensor:
        """(S, 1, D), or (3, S, 1, D) with equal axes -> (S, 1, D)."""
        return angles[0] if angles.ndim == 4 else angles

    def _attend(self, number: int, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x (S, d) -> (S, heads * D): over the banks and the columns written, the new token's included."""
        weights, layer, written, count = self.weights, self.weights.layers[number], self.written[number], len(x)
        assert self._mask is not None
        heads, groups = weights.num_kv_heads, weights.num_heads // weights.num_kv_heads
        qkv = F.linear(x, *layer.qkv).view(count, -1, weights.head_dim)
        turned, value = qkv.split([weights.num_heads + heads, heads], 1)
        if layer.head_norms is not None:
            query, key = turned.split([weights.num_heads, heads], 1)
            turned = torch.cat([_rms(query, layer.head_norms[0]), _rms(key, layer.head_norms[1])], 1)
        query, key = _rotated(turned, cos, sin).split([weights.num_heads, heads], 1)
        written[0][:, :, self.end], written[1][:, :, self.end] = key, value
        keys, values = (w.flatten(0, 1) for w in written)
        query = query.reshape(count, heads, groups, -1)
        banks = [bank for bank in (self.roots, self.prompts) if bank.width]
        of_written = torch.bmm(keys, query.flatten(0, 1).transpose(1, 2)).transpose(1, 2)
        scores = [*(b.scores(number, query) for b in banks), of_written.reshape(count, heads, groups, -1)]
        attention = torch.softmax(torch.add(self._mask, torch.cat(scores, -1), alpha=weights.scaling), -1)
        *of_banks, of_written = attention.split([*(b.width for b in banks), keys.shape[1]], -1)
        attended = torch.bmm(of_written.flatten(0, 1), values).view(count, heads, groups, -1)
        for bank, part in zip(banks, of_banks, strict=True):
            attended = attended + bank.weighed(number, part)
        return attended.flatten(1)


def _beginnings(past: KeyValues) -> list[tuple[int, ...]]:
    """Names of all that a sequence begins with, by the pieces in which it was read."""
    ids = [id(piece) for piece in past.pieces]
    return [tuple(ids[:count]) for count in range(1, len(ids) + 1)]


def computes_the_same(model: VisionLanguageModel, images: ImageStore, weights: FusedWeights) -> bool:
    """Whether a step on these weights equals the model's own, on a few tokens of its vocabulary."""
    vocabulary = model.model.get_input_embeddings().weight.shape[0]
    ids = np.arange(1, 10, dtype=np.int64) * 7919 % vocabulary
    positions = torch.arange(9, device=model.device)[None]
    tokens = torch.from_numpy(ids).to(model.device)[None]
    rows = FusedRows(model, images, None, lambda prompts, hidden: None, None, weights)
    rows.read([EncodedPrompt(ids[:-1], ())] * 2, [0, 1], ())
    rows.step(tokens[0, -1:].expand(2))
    expected, _ = model.hidden(tokens, torch.ones_like(tokens).bool(), positions)
    gap = (rows.hidden - expected[:, -1]).abs().max()
    return bool(gap <= SAME * expected.abs().max())
