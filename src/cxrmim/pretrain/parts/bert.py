"""The text encoder; a method without one is spared the import of transformers."""

import math

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

from cxrmim.pretrain.parts.encoders import captured, cls_attention
from cxrmim.pretrain.parts.words import PAD
from cxrmim.schema import TextModel

POSITIONS = 512  # rows of BERT's position table


class TextEncoder(nn.Module):
    """BERT without pooling, cut to the layers that params give.

    `positions: zero` is the official code's slip (rG encoder.py:379 passes token types as position
    ids, exactness.md A1): every token gets position 0 and there is no token-type embedding, so that
    all features but the order of words are as released.

    Args:
        text: dimensions and switches.
        vocab: WordPiece pieces.
    """

    def __init__(self, text: TextModel, vocab: int) -> None:
        super().__init__()
        self.positions = text.positions
        config = BertConfig(
            vocab_size=vocab,
            hidden_size=text.width,
            num_hidden_layers=text.layers,
            num_attention_heads=text.heads,
            intermediate_size=text.mlp,
            hidden_dropout_prob=text.dropout,
            attention_probs_dropout_prob=text.dropout,
            max_position_embeddings=POSITIONS,
            pad_token_id=PAD,
            initializer_range=0.02 * math.sqrt(768 / text.width),
            attn_implementation="sdpa",
        )
        self.bert = BertModel(config, add_pooling_layer=False)
        self.drop_token_types()
        self.heads = text.heads

    def drop_token_types(self) -> None:
        """Under `positions: zero`, make the token-type embedding nothing; call after loading."""
        if self.positions == "zero":
            table = self.bert.embeddings.token_type_embeddings.weight
            table.requires_grad_(False)
            table.zero_()

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """(B, L) ids -> hidden states (B, L, C), attention from CLS to every token (B, L)."""
        mask = ids != PAD
        last = self.bert.encoder.layer[-1].attention.self
        with captured(last.query, last.key) as found:
            hidden = self._run(ids, mask).last_hidden_state
        query, key = found
        return hidden, cls_attention(query, key, self.heads, mask)

    def last_states(self, ids: Tensor, number: int) -> tuple[Tensor, ...]:
        """(B, L) ids -> hidden states (B, L, C) after each of the last `number` layers."""
        states: tuple[Tensor, ...] = self._run(ids, ids != PAD, states=True).hidden_states
        return states[-number:]

    def _run(
        self, ids: Tensor, mask: Tensor, *, states: bool = False
    ) -> BaseModelOutputWithPoolingAndCrossAttentions:
        positions = torch.zeros_like(ids[:1]) if self.positions == "zero" else None
        # a four-dimensional mask is used as it is; a two-dimensional one costs a device sync
        return self.bert(
            ids,
            attention_mask=mask[:, None, None],
            position_ids=positions,
            output_hidden_states=states,
            return_dict=True,
        )
