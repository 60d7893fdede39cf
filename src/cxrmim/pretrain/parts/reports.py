"""Masked reports and the models that complete them with what an image shows (MRM §3.2)."""

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from cxrmim.pretrain.parts.decoders import xavier
from cxrmim.pretrain.parts.words import PAD


def mask_tokens(
    ids: Tensor, word: Tensor, noise: Tensor, ratio: float, unit: str, length: int
) -> Tensor:
    """Draw the masked positions of reports.

    The first position ([CLS]), the last of a full report and padding are never masked. Under
    ``word`` all pieces of a word share one draw and [SEP] stays; under ``token`` every position
    has its own and [SEP] can be masked (protocols §2; rR util/pretrain_datasets.py; rC).

    Args:
        ids: (B, L) WordPiece ids, [CLS] first, 0 for padding.
        word: (B, L) int64 word of each token in its report, -1 for special tokens and padding.
        noise: (B, at least L) uniform random numbers in [0, 1).
        ratio: probability of a word or token.
        unit: word | token.
        length: stored tokens of a full report; `ids` may be trimmed to fewer.

    Returns:
        (B, L) bool.
    """
    at = torch.arange(ids.shape[1], device=ids.device)
    free = (ids != PAD) & (at > 0) & (at < length - 1)
    if unit == "token":
        return free & (noise[:, : ids.shape[1]] < ratio)
    return free & (word >= 0) & (noise.gather(1, word.clamp(min=0)) < ratio)


def read(bert: BertModel, ids: Tensor, image: Tensor, positions: Tensor | None = None) -> Tensor:
    """Run BERT on token embeddings to which an image's is added.

    It is added after the sum of embeddings, LayerNorm and dropout, to padding too; padding is no
    attention key (rR bert.py:105-112, exactness.md A8).

    Args:
        bert: without pooling.
        ids: (B, L).
        image: (B, C).
        positions: (1, L) position ids; 0 to L - 1 if None.

    Returns:
        (B, L, C) hidden states.
    """
    tokens = bert.embeddings(input_ids=ids, position_ids=positions)
    mask = (ids != PAD)[:, None, None]
    hidden: Tensor = bert.encoder(tokens + image[:, None], attention_mask=mask).last_hidden_state
    return hidden


class TokenClassifier(nn.Sequential):
    """BERT's masked-language head: Linear, GELU, LayerNorm, Linear that shares no weights.

    Args:
        width: of the hidden states.
        vocab: WordPiece pieces, V.
    """

    def __init__(self, width: int, vocab: int) -> None:
        super().__init__(
            nn.Linear(width, width),
            nn.GELU(),
            nn.LayerNorm(width, eps=1e-12),
            nn.Linear(width, vocab),
        )
        self.apply(xavier)


class ReportDecoder(nn.Module):
    """MRM's report decoder: a small BERT from scratch that completes a masked report.

    Linear layers start uniform Xavier without bias, embeddings N(0, 0.02) (exactness.md A8).

    Args:
        image: width of the encoder's tokens, D.
        width: of the decoder.
        layers: of the decoder.
        heads: attention heads.
        mlp: width of the feed-forward layers.
        vocab: WordPiece pieces, V.
        length: positions.
        dropout: of hidden states and attention.
    """

    def __init__(
        self,
        image: int,
        width: int,
        layers: int,
        heads: int,
        mlp: int,
        vocab: int,
        length: int,
        dropout: float,
    ) -> None:
        super().__init__()
        config = BertConfig(
            vocab_size=vocab,
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=mlp,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            max_position_embeddings=length,
            pad_token_id=PAD,
            initializer_range=0.02,
            attn_implementation="sdpa",
        )
        self.bert = BertModel(config, add_pooling_layer=False)
        self.bridge = nn.Linear(image, width)
        self.apply(xavier)
        self.classify = TokenClassifier(width, vocab)

    def forward(self, ids: Tensor, image: Tensor) -> Tensor:
        """Predict all pieces of masked reports.

        Args:
            ids: (B, L) with masked positions.
            image: (B, D) mean over the visible patches. The official code averages after its
                Linear layer, which gives the same numbers.

        Returns:
            (B, L, V) scores.
        """
        scores: Tensor = self.classify(read(self.bert, ids, self.bridge(image)))
        return scores
