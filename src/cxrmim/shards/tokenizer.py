"""WordPiece vocabularies: published ones, or ones trained on the training reports.

Captions are spelt with BioClinicalBERT's (five special tokens, BERT's splitting), whole reports
with MRM's (protocols §2; rR mimic_wordpiece.json): lower case, NFKD, accents stripped, split into
runs of word characters, of digits and of punctuation; [PAD], [UNK], [CLS], [MASK] are 0 to 3.
"""

import json
import string
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import NFKD, Lowercase, StripAccents
from tokenizers.normalizers import Sequence as Normalizers
from tokenizers.pre_tokenizers import BertPreTokenizer, Digits, Whitespace, WhitespaceSplit
from tokenizers.pre_tokenizers import Sequence as PreTokenizers
from tokenizers.trainers import WordPieceTrainer

from cxrmim.errors import DataError
from cxrmim.shards.text import CONTINUES, Sentences

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
RAW_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[MASK]")
LETTERS = string.digits + string.ascii_lowercase
SIGNS = string.punctuation + LETTERS
VOCABULARY = Path("weights/bioclinicalbert/vocab.txt")
RAW_VOCABULARY = Path("weights/mrm/mimic_wordpiece.json")


def train(captions: Iterable[Sentences], size: int) -> Tokenizer:
    """WordPiece of captions with at most `size` entries, [PAD] = 0.

    Every letter and digit is in it, at the start of a word and inside, so that any caption can be
    spelt. The result depends on the words' counts only.

    Raises:
        DataError: `size` has no room for the letters.
    """
    counts = Counter(word for caption in captions for words in caption for word in words)
    alphabet = [*SPECIAL, "_", *LETTERS, *(CONTINUES + c for c in LETTERS)]
    return wordpiece(_learn(counts, alphabet, size, "shards.text.vocab"))


def train_raw(reports: Iterable[str], size: int) -> Tokenizer:
    """WordPiece of whole reports with at most `size` entries, of the form of MRM's.

    It spells every word of printable ASCII; what has other signs left after its accents are
    stripped is unknown. The result depends on the words' counts only.

    Raises:
        DataError: `size` has no room for the signs.
    """
    form = raw_wordpiece(RAW_SPECIAL)
    counts: Counter[str] = Counter()
    for report in reports:
        normal = form.normalizer.normalize_str(report)
        counts.update(word for word, _ in form.pre_tokenizer.pre_tokenize_str(normal))
    known = set(SIGNS)
    spelt = Counter({word: n for word, n in counts.items() if known.issuperset(word)})
    alphabet = [*RAW_SPECIAL, *SIGNS, *(CONTINUES + c for c in SIGNS)]
    return raw_wordpiece(_learn(spelt, alphabet, size, "shards.text.raw.vocab"))


def load(file: Path, size: int) -> Tokenizer:
    """BioClinicalBERT's WordPiece from its vocab.txt.

    Args:
        file: one token a line.
        size: entries that it must have.

    Raises:
        DataError: it is missing, or another model's.
    """
    advice = "put vocab.txt of emilyalsentzer/Bio_ClinicalBERT there"
    if not file.is_file():
        raise DataError(
            f"{file}: no such file, and shards.text.tokenizer is bioclinicalbert; {advice}, or set "
            f"shards.text.tokenizer: phantom"
        )
    try:
        tokens = file.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read ({type(error).__name__}); {advice}") from None
    missing = [token for token in SPECIAL if token not in tokens]
    if missing:
        wrong = f"has no {missing[0]}"
    elif len(tokens) != size:
        wrong = f"{len(tokens)} tokens, not the {size} of shards.text.vocab"
    elif tokens[0] != "[PAD]":
        wrong = "[PAD] is not its first token"
    elif len(set(tokens)) != len(tokens):
        wrong = "a token stands in it twice"
    else:
        return wordpiece(tokens)
    raise DataError(f"{file}: {wrong}; {advice}")


def load_raw(file: Path, size: int) -> Tokenizer:
    """MRM's WordPiece from its tokenizers file.

    Args:
        file: JSON as in the MRM repository.
        size: entries that it must have.

    Raises:
        DataError: it is missing, or not of MRM's form.
    """
    advice = "put mimic_wordpiece.json of github.com/RL4M/MRM-pytorch there"
    if not file.is_file():
        raise DataError(
            f"{file}: no such file, and shards.text.raw.tokenizer is mrm; {advice}, or set "
            f"shards.text.raw: null if no method reads whole reports"
        )
    try:
        found = Tokenizer.from_str(file.read_text(encoding="utf-8"))
        form = json.loads(found.to_str())
    except Exception as error:  # tokenizers raises nothing more special
        raise DataError(
            f"{file}: cannot be read as a tokenizer ({type(error).__name__}); {advice}"
        ) from None
    vocabulary = found.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    if tuple(tokens[: len(RAW_SPECIAL)]) != RAW_SPECIAL:
        wrong = f"its first tokens are not {' '.join(RAW_SPECIAL)}"
    elif len(tokens) != size:
        wrong = f"{len(tokens)} tokens, not the {size} of shards.text.raw.vocab"
    elif vocabulary[tokens[-1]] != len(tokens) - 1:
        wrong = "its ids are not 0, 1, 2 ..."
    else:
        rebuilt = raw_wordpiece(tokens)
        expected = json.loads(rebuilt.to_str())
        parts = ("model", "normalizer", "pre_tokenizer", "post_processor", "added_tokens")
        other = [part for part in parts if form[part] != expected[part]]
        if not other:
            return rebuilt
        wrong = f"its {other[0]} is not MRM's"
    raise DataError(f"{file}: {wrong}; {advice}")


def wordpiece(tokens: Sequence[str]) -> Tokenizer:
    """Greedy longest-match WordPiece over given tokens; a token's id is its place."""
    vocabulary = {token: i for i, token in enumerate(tokens)}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = BertPreTokenizer()
    return tokenizer


def raw_wordpiece(tokens: Sequence[str]) -> Tokenizer:
    """The same in MRM's form; special tokens that are spelt out in a report stay plain text."""
    tokenizer = wordpiece(tokens)
    tokenizer.normalizer = Normalizers([Lowercase(), NFKD(), StripAccents()])
    tokenizer.pre_tokenizer = PreTokenizers([Whitespace(), Digits(individual_digits=False)])
    tokenizer.add_special_tokens(list(RAW_SPECIAL))
    tokenizer.encode_special_tokens = True
    return tokenizer


def special(tokenizer: Tokenizer) -> dict[str, int]:
    """Ids of the special tokens of captions."""
    vocabulary = tokenizer.get_vocab()
    return {token: vocabulary[token] for token in SPECIAL}


def _learn(counts: Counter[str], alphabet: list[str], size: int, where: str) -> list[str]:
    """At most `size` tokens: the alphabet, then what training adds, in the order it was learnt."""
    if size < len(alphabet):
        raise DataError(
            f"{where} = {size}: smaller than the {len(alphabet)} special tokens and letters; "
            f"raise it"
        )
    tokenizer = Tokenizer(WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    # Named in advance, so that no piece gets its id from the order of a hash table.
    trainer = WordPieceTrainer(vocab_size=size, special_tokens=alphabet, show_progress=False)
    tokenizer.train_from_iterator(_repeated(counts), trainer, length=len(counts))
    found, known = tokenizer.get_vocab(), set(alphabet)
    learned = sorted((token for token in found if token not in known), key=found.__getitem__)
    return [*alphabet, *learned]


def _repeated(counts: Counter[str]) -> Iterable[str]:
    """Each word as often as it occurs, in an order that does not depend on the captions'."""
    for word in sorted(counts):
        yield " ".join([word] * counts[word])
