"""Compressed context memory as it is trained by its authors: a whole text at once, under a mask.

Chunks, COMP tokens and (where memory is merged) SUM tokens are one sequence. A literal Llama reads
it, in any precision, with what the paper's appendix and code say of masks and positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

TEXT, COMP, SUM = 0, 1, 2


@dataclass
class Layout:
    """Tokens of a text in the authors' order, as lists of equal length.

    Attributes:
        mode: concat_recur, merge_recur, concat or merge.
        kinds: TEXT, COMP or SUM.
        numbers: the place of a COMP or SUM token within its group, from 0; -1 of text.
        groups: how many COMP groups have begun, this one included.
        segments: number of the segment.
    """

    mode: str
    kinds: list[int]
    numbers: list[int]
    groups: list[int]
    segments: list[int]

    @classmethod
    def of(cls, lengths, tail, size, mode):
        """Chunks of these lengths, each with `size` COMP tokens, and a last one without any."""
        found = cls(mode, [], [], [], [])
        segment = 0
        for number, length in enumerate(lengths):
            found._add(TEXT, length, number, segment, ())
            found._add(COMP, size, number + 1, segment, range(size))
            last = number == len(lengths) - 1
            if mode == "merge_recur":
                found._add(SUM, size, number + 1, segment, range(size))
            segment += 1
            if mode == "merge" and last:
                found._add(SUM, size, number + 1, segment, range(size))
        found._add(TEXT, tail, len(lengths), segment, ())
        return found

    def _add(self, kind, count, groups, segment, numbers):
        self.kinds += [kind] * count
        self.numbers += list(numbers) or [-1] * count
        self.groups += [groups] * count
        self.segments += [segment] * count

    @property
    def mask(self) -> Tensor:
        """[L, L] bool: row i sees column j."""
        size = len(self.kinds)
        last = max(i for i in range(size) if self.kinds[i] == COMP)
        seen = [[j <= i and self._sees(i, j, i > last) for j in range(size)] for i in range(size)]
        return torch.tensor(seen)

    def _sees(self, i, j, behind):
        same, kind = self.segments[i] == self.segments[j], self.kinds[j]
        if self.mode == "concat_recur":
            return same or kind == COMP
        if self.mode == "merge_recur":
            return same or (kind == SUM and self.segments[j] == self.segments[i] - 1)
        if self.mode == "concat":
            return same or (behind and kind == COMP)
        return kind in (COMP, SUM) if self.kinds[i] == SUM else same

    @property
    def positions(self) -> Tensor:
        read, found = 0, []
        for kind, number in zip(self.kinds, self.numbers, strict=True):
            found.append(read + max(number, 0))
            read += kind == TEXT
        return torch.tensor(found)

    @property
    def merging(self) -> Tensor:
        """[L, L]: what the keys and values of SUM rows are made of; zeros in other rows."""
        size = len(self.kinds)
        weights = torch.zeros(size, size, dtype=torch.float64)
        for i in range(size):
            if self.kinds[i] == SUM:
                for j in range(i):
                    if self.kinds[j] == COMP and self.numbers[j] == self.numbers[i]:
                        weights[i, j] = 1 / self.groups[i]
        return weights

    def rows(self, kind) -> Tensor:
        """The places of tokens of a kind."""
        return torch.tensor([i for i, found in enumerate(self.kinds) if found == kind])


def read_at_once(net, layout, text, table, corrections):
    """Logits [L, V], and the keys and values of every layer, [layers, 2, H, L, D].

    Args:
        net: a `LlamaForCausalLM`.
        layout: which tokens there are.
        text: the ids of the text.
        table: [n, d] or [2 n, d], the embeddings of COMP and then SUM tokens.
        corrections: by the name of a projection, its matrices A and B and a factor.
    """
    special = torch.tensor([kind != TEXT for kind in layout.kinds])[:, None]
    size = max(layout.numbers) + 1
    x = torch.zeros(len(layout.kinds), table.shape[1], dtype=table.dtype)
    x = x.index_put((layout.rows(TEXT),), net.model.embed_tokens(text))
    for kind in (COMP, SUM):
        rows = layout.rows(kind)
        if len(rows):
            place = torch.tensor(layout.numbers)[rows] + (size if kind == SUM else 0)
            x = x.index_put((rows,), table[place % len(table)])
    cos, sin = (part[0] for part in net.model.rotary_emb(x[None], layout.positions[None]))
    is_sum = torch.tensor([kind == SUM for kind in layout.kinds])[None, :, None]
    merging, hidden_from = layout.merging.to(x.dtype), ~layout.mask
    kept = []
    for number, layer in enumerate(net.model.layers):

        def projected(inputs, name, layer=layer, number=number):
            output = getattr(layer.self_attn, name)(inputs)
            path = f"model.layers.{number}.self_attn.{name}"
            if path not in corrections:
                return output
            down, up, factor = corrections[path]
            return output + special * (factor * (inputs @ down.mT @ up.mT))

        def heads(value, width=net.model.layers[0].self_attn.head_dim):
            return value.view(len(value), -1, width).transpose(0, 1)

        normed = layer.input_layernorm(x)
        q, k, v = (heads(projected(normed, f"{part}_proj")) for part in "qkv")
        q, k = (turned(part, cos, sin) for part in (q, k))
        k, v = (torch.where(is_sum, merging @ part, part) for part in (k, v))
        kept.append(torch.stack([k, v]))
        k, v = (part.repeat_interleave(len(q) // len(part), dim=0) for part in (k, v))
        scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(hidden_from, -torch.inf)
        mixed = (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)
        x = x + projected(mixed, "o_proj")
        x = x + layer.mlp(layer.post_attention_layernorm(x))
    return net.lm_head(net.model.norm(x)), torch.stack(kept)


def turned(value, cos, sin):
    """Rotary positions, in halves."""
    one, other = value.chunk(2, dim=-1)
    return value * cos + torch.cat([-other, one], dim=-1) * sin
