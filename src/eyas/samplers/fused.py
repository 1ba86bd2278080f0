"""A lean decode step for decoders built like Llama: fewer, larger products, and a prompt's keys read once for all its rows.

The library's own step spends more time on dispatch and on reading the same prompt's keys for each member of a group than on
arithmetic where the model is small. This one takes the same weights, joined once for each version of them.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from eyas.models.adapter import EncodedPrompt, VisionLanguageModel, additive_mask
from eyas.samplers.prefixes import PrefixStore
from eyas.samplers.rows import OnPrompts, SlotRows
from eyas.samplers.slots import NOTHING, KeyValues, Read
from eyas.types import ImageStore

MOST_PARAMETERS = 300_000_000  # the joined weights are a copy
COLUMNS = 16  # that are added at a time: products over columns that lie side by side are twice as fast
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


class FusedRows(SlotRows):
    """Rows whose prompts lie in a bank, once for all rows with the same, and whose new tokens lie in columns behind it."""

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
        # of each layer keys (P, heads, L, D) and values (P, heads, D, L) of prompts, right-aligned: these turned, because
        # attention to one token then reads both along their rows, up to a third faster where they exceed the caches
        self.bank: list[list[Tensor]] = []
        self.written: list[list[Tensor]] = []  # of each layer keys and values (S, heads, C, D) of new tokens
        self.prompt_lengths = np.zeros(0, dtype=np.int64)  # (P,)
        self.pasts = np.zeros(0, dtype=object)  # (P,): the KeyValues that each prompt goes on with
        self.owners = np.zeros(0, dtype=np.int64)  # (S,): the bank's row of each slot's prompt; -1: the slot is free
        self.starts = np.zeros(0, dtype=np.int64)  # (S,): the column of the first token that each slot wrote
        self.end = 0  # columns written

    # ------------------------------------------------------------------------------------- what is held

    def _place(self, read: Read, rows: Tensor, slots: Tensor, is_needed_later: bool) -> None:
        taken, of_slots = np.unique(rows.cpu().numpy(), return_inverse=True)
        if not self.bank:
            count, (_, heads, _, size) = len(self.positions), read.layers[0][0].shape
            self.owners, self.starts = np.full(count, -1), np.zeros(count, dtype=np.int64)
            self.written = [[k.new_zeros(count, heads, COLUMNS, size) for _ in range(2)] for k, _ in read.layers]
            self.bank = [[k[:0, :, :0], v[:0, :, :0].transpose(2, 3)] for k, v in read.layers]
        if not len(self.prompt_lengths) and len(taken) == len(read.hidden) and not is_needed_later:
            places, self.bank = taken, [[k, v.transpose(2, 3).contiguous()] for k, v in read.layers]
            self.prompt_lengths, self.pasts = read.lengths.cpu().numpy(), np.array(read.pasts, dtype=object)
        else:
            lengths = read.lengths.cpu().numpy()[taken]
            places, width = self._free_rows(len(taken), int(lengths.max())), int(lengths.max())
            self.prompt_lengths[places], self.pasts[places] = lengths, np.array(read.pasts, dtype=object)[taken]
            for (keys, values), (new_keys, new_values) in zip(self.bank, read.layers, strict=True):
                keys[places, :, -width:] = new_keys[taken, :, -width:]
                values[places, :, :, -width:] = new_values[taken, :, -width:].transpose(2, 3)
        self.owners[slots.cpu().numpy()] = places[of_slots]
        self.starts[slots.cpu().numpy()] = self.end
        self._look()

    def _free_rows(self, count: int, length: int) -> np.ndarray:
        """Rows of the bank that no slot owns, with room for this many tokens; the bank grows where it has none."""
        used = np.unique(self.owners[self.owners >= 0])
        rows, width = self.bank[0][0].shape[0], self.bank[0][0].shape[2]
        free = np.setdiff1d(np.arange(rows), used)
        most = max(rows, rows + count - len(free))
        if most > rows or length > width:
            wider = max(-(-length // COLUMNS) * COLUMNS, width)  # the next prompts may be a little longer
            on_top, below = (wider - width, 0), (0, 0, 0, most - rows)
            self.bank = [[F.pad(k, (0, 0, *on_top, *below)), F.pad(v, (*on_top, 0, 0, *below))] for k, v in self.bank]
            self.prompt_lengths = np.append(self.prompt_lengths, np.zeros(most - rows, dtype=np.int64))
            self.pasts = np.append(self.pasts, np.full(most - rows, NOTHING))
            free = np.append(free, np.arange(rows, most))
        return free[:count]

    def _look(self) -> None:
        """What each slot sees, and which slots share a row of the bank: after every change of either."""
        device, dtype = self.model.device, self.hidden.dtype
        width, capacity = self.bank[0][0].shape[2], self.written[0][0].shape[2]
        lengths = np.where(self.owners >= 0, self.prompt_lengths[self.owners], 1)
        of_prompt = np.arange(width) >= width - lengths[:, None]
        columns = np.arange(capacity)
        of_written = (columns >= self.starts[:, None]) & (columns < self.end)
        sees = torch.from_numpy(np.concatenate([of_prompt, of_written], 1)).to(device)
        self._mask = additive_mask(sees, dtype)[:, None, None]
        num_rows = self.bank[0][0].shape[0]
        members = [np.flatnonzero(self.owners == row) for row in range(num_rows)]
        most = max(len(m) for m in members)
        self._groups = None  # every slot has a row of its own, in order
        if num_rows != len(self.owners) or not np.array_equal(self.owners, np.arange(num_rows)):
            slots = np.zeros((num_rows, most), dtype=np.int64)
            places = np.zeros(len(self.owners), dtype=np.int64)
            for row, of_row in enumerate(members):
                slots[row, : len(of_row)] = of_row
                places[of_row] = row * most + np.arange(len(of_row))
            self._groups = torch.from_numpy(slots).to(device), torch.from_numpy(places).to(device)

    def keep(self, slots: Tensor) -> None:
        self.positions, self.hidden = self.positions[slots], self.hidden[slots]
        kept = slots.cpu().numpy()
        used, self.owners = np.unique(self.owners[kept], return_inverse=True)
        self.starts, self.prompt_lengths, self.pasts = self.starts[kept], self.prompt_lengths[used], self.pasts[used]
        for own in self.bank:
            own[:] = [b[used] for b in own]
        first = int(self.starts.min())  # columns before it belong to slots that were dropped
        self.starts, self.end = self.starts - first, self.end - first
        for own in self.written:
            own[:] = [
                torch.cat([w[slots, :, first:], w.new_zeros(len(kept), w.shape[1], first, w.shape[3])], 2) for w in own
            ]
        self._look()

    def release(self, slot: int) -> None:
        self.owners[slot] = -1

    def _held(self, slot: int, length: int) -> KeyValues:
        row, start = self.owners[slot], self.starts[slot]
        past: Any = self.pasts[row]
        count = int(self.prompt_lengths[row])
        begin = self.bank[0][0].shape[2] - count + past.length
        layers = []
        for (keys, values), written in zip(self.bank, self.written, strict=True):
            of_prompt = keys[row, :, begin:], values[row, :, :, begin:].transpose(1, 2)
            of_slot = [w[slot, :, start : start + length - count] for w in written]
            new = [torch.cat(both, 1) for both in zip(of_prompt, of_slot, strict=True)]
            layers.append((new[0], new[1]))
        return past.with_more(tuple(layers), int(self.positions[slot]))

    def _make_room(self) -> None:
        """One more column, and first those cut off that no slot needs."""
        if self.end == self.written[0][0].shape[2]:
            active = self.owners >= 0
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
        self._mask[..., self.bank[0][0].shape[2] + self.end] = 0

    # ------------------------------------------------------------------------------------- one token more

    def step(self, ids: Tensor) -> None:
        self._make_room()
        weights = self.weights
        hidden = weights.embed(ids)
        cos, sin = (self._turned(x) for x in weights.rotary(hidden[:, None], self._axes()))
        sin = torch.cat([-sin[..., : sin.shape[-1] // 2], sin[..., sin.shape[-1] // 2 :]], -1)
        for layer, bank, written in zip(weights.layers, self.bank, self.written, strict=True):
            attended = self._attend(layer, _rms(hidden, layer.norm), cos, sin, bank, written)
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

    def _attend(
        self, layer: _Layer, x: Tensor, cos: Tensor, sin: Tensor, bank: list[Tensor], written: list[Tensor]
    ) -> Tensor:
        """x (S, d) -> (S, heads * D): over the prompts in the bank and the columns written, the new token's included."""
        weights, count = self.weights, len(x)
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
        of_prompt = torch.bmm(bank[0].flatten(0, 1), self._grouped(query).transpose(1, 2)).transpose(1, 2)
        of_written = torch.bmm(keys, query.flatten(0, 1).transpose(1, 2)).transpose(1, 2)
        scores = torch.cat([self._regrouped(of_prompt, groups), of_written.reshape(count, heads, groups, -1)], -1)
        attention = torch.softmax(torch.add(self._mask, scores, alpha=weights.scaling), -1)
        width = bank[0].shape[2]
        of_prompt = self._grouped(attention[..., :width]).transpose(1, 2)
        of_prompt = torch.bmm(bank[1].flatten(0, 1), of_prompt).transpose(1, 2)
        of_written = torch.bmm(attention[..., width:].flatten(0, 1), values).view(count, heads, groups, -1)
        return (self._regrouped(of_prompt, groups) + of_written).flatten(1)

    def _grouped(self, of_slots: Tensor) -> Tensor:
        """(S, heads, g, X) -> (P * heads, members * g, X): the slots that share a prompt, side by side."""
        if self._groups is None:
            return of_slots.flatten(0, 1)
        gathered = of_slots[self._groups[0]].transpose(1, 2)  # (P, heads, members, g, X)
        return gathered.reshape(gathered.shape[0] * gathered.shape[1], -1, gathered.shape[4])

    def _regrouped(self, of_rows: Tensor, groups: int) -> Tensor:
        """(P * heads, members * g, X) -> (S, heads, g, X)."""
        heads = self.weights.num_kv_heads
        if self._groups is None:
            return of_rows.reshape(-1, heads, groups, of_rows.shape[2])
        slots, places = self._groups
        parted = of_rows.reshape(slots.shape[0], heads, slots.shape[1], groups, -1).transpose(1, 2)
        return parted.reshape(-1, heads, groups, of_rows.shape[2])[places]


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
