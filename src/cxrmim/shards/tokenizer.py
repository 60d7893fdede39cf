"""WordPiece vocabularies: BioClinicalBERT's, or one trained on the training captions."""

import string
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.trainers import WordPieceTrainer

from cxrmim.errors import DataError
from cxrmim.shards.text import Sentences

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LETTERS = string.digits + string.ascii_lowercase
VOCABULARY = Path("weights/bioclinicalbert/vocab.txt")


def train(captions: Iterable[Sentences], size: int) -> Tokenizer:
    """WordPiece of at most `size` entries, [PAD] = 0.

    Every letter and digit is in it, at the start of a word and inside, so that any caption can be
    spelt. The result depends on the words' counts only.
    """
    counts = Counter(word for caption in captions for words in caption for word in words)
    alphabet = [*SPECIAL, "_", *LETTERS, *(f"##{c}" for c in LETTERS)]
    if size < len(alphabet):
        raise DataError(
            f"shards.text.vocab = {size}: smaller than the {len(alphabet)} special tokens and "
            f"letters; raise it"
        )
    tokenizer = Tokenizer(WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = BertPreTokenizer()
    # Named in advance, so that no piece gets its id from the order of a hash table.
    trainer = WordPieceTrainer(vocab_size=size, special_tokens=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_repeated(counts), trainer, length=len(counts))
    found = tokenizer.get_vocab()
    learned = sorted((token for token in found if token not in alphabet), key=found.__getitem__)
    return wordpiece([*alphabet, *learned][:size])


def load(file: Path, size: int) -> Tokenizer:
    """BioClinicalBERT's WordPiece from its vocab.txt.

    Args:
        file: one token a line.
        size: entries that it must have.

    Raises:
        DataError: it is missing, or another model's.
    """
    if not file.is_file():
        raise DataError(
            f"{file}: no such file, and shards.text.tokenizer is bioclinicalbert; put vocab.txt of "
            f"emilyalsentzer/Bio_ClinicalBERT there, or set shards.text.tokenizer: phantom"
        )
    tokens = file.read_text(encoding="utf-8").rstrip("\n").split("\n")
    missing = [token for token in SPECIAL if token not in tokens]
    if len(tokens) != size or missing or tokens[0] != "[PAD]":
        wrong = f"no {missing[0]}" if missing else f"{len(tokens)} tokens, first not [PAD] or not"
        raise DataError(
            f"{file}: {wrong} the {size} of shards.text.vocab; put vocab.txt of "
            f"emilyalsentzer/Bio_ClinicalBERT there"
        )
    return wordpiece(tokens)


def wordpiece(tokens: list[str]) -> Tokenizer:
    """Greedy longest-match WordPiece over given tokens; a token's id is its place."""
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = BertPreTokenizer()
    return tokenizer


def special(tokenizer: Tokenizer) -> dict[str, int]:
    """Ids of the special tokens."""
    vocabulary = tokenizer.get_vocab()
    return {token: vocabulary[token] for token in SPECIAL}


def _repeated(counts: Counter[str]) -> Iterable[str]:
    """Each word as often as it occurs, in an order that does not depend on the captions'."""
    for word in sorted(counts):
        yield " ".join([word] * counts[word])
