"""Captions, WordPiece and the alignment of tokens, words and sentences."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrmim.errors import DataError
from cxrmim.shards import mesh, tokenizer
from cxrmim.shards.text import caption, encode

TRAINING = [
    [["small", "left", "pleural", "effusion"], ["no", "pneumothorax"]],
    [["heart", "size", "is", "normal"], ["the", "lungs", "are", "clear"]],
]


@pytest.fixture(scope="module")
def wordpiece():
    return tokenizer.train(TRAINING, 120)


def encoded(wordpiece, captions, length=40):
    def pieces(word):
        return list(wordpiece.encode(word, add_special_tokens=False).ids)

    return encode(
        captions, pieces, tokenizer.special(wordpiece), mesh.headings("radiology"), length
    )


@pytest.mark.parametrize(
    ("impression", "findings", "expected"),
    [
        ("No acute process.", "Lungs are clear.", "no acute process|lungs are clear"),
        ("One two\nthree", None, "one two three"),
        ("1. First item here 2. Second item.", "", "first item here|second item"),
        ("Size is 2.5 cm wide.", "", "cm wide"),  # "2." splits; "size is" and "5 cm wide"
        ("Stable. No change at all.", "", "no change at all"),  # one-token sentence dropped
        ("Pt ___ seen, by Dr. ___ today ok", "", "pt _ _ _ seen by dr|_ _ _ today ok"),
        ("Left_lung is clear", "", "left _ lung is clear"),
        ("Größe der Läsion", "", "gre der lsion"),  # non-ASCII stripped
        ("Heart-size: normal!", "", "heart size normal"),
    ],
)
def test_caption_rules(impression, findings, expected):
    found = caption(impression, findings)
    if expected == "cm wide":
        expected = "size is|5 cm wide"
    assert "|".join(" ".join(words) for words in found) == expected


@pytest.mark.parametrize("text", ["", "No change.", "One. Two. Three.", "é è ê ë", None])
def test_a_report_of_fewer_than_three_tokens_is_none(text):
    assert caption(text, None) is None


def test_the_short_sentence_rule_counts_before_the_stripping():
    assert caption("é normal here now. ok", "") == [["normal", "here", "now"]]
    assert caption("ê clear. One two", "") == [["clear"], ["one", "two"]]


def test_specials_and_spelling(wordpiece):
    ids = tokenizer.special(wordpiece)
    assert list(ids.values()) == [0, 1, 2, 3, 4]
    assert wordpiece.get_vocab_size() <= 120
    assert wordpiece.encode("zq9x", add_special_tokens=False).tokens == ["z", "##q", "##9", "##x"]


def test_the_vocabulary_does_not_depend_on_process_or_order():
    code = (
        "import sys, hashlib, random; from cxrmim.shards import tokenizer;"
        "words = ''.join(chr(97 + (i * 7919) % 26) for i in range(6000));"
        "caps = [[[words[i:i + 2 + i % 7] for i in range(s, s + 40)]] for s in range(0, 5900, 3)];"
        "random.Random(int(sys.argv[1])).shuffle(caps);"
        "print(hashlib.sha256(tokenizer.train(caps, 300).to_str().encode()).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", code, str(seed)], capture_output=True, text=True, check=True
        ).stdout
        for seed in range(3)
    }
    assert len(found) == 1


def test_a_vocabulary_too_small_is_named():
    with pytest.raises(DataError, match=r"shards.text.vocab = 50"):
        tokenizer.train(TRAINING, 50)


TEXT = st.lists(
    st.text(alphabet="abzé_ü09.  \n-AZ中", min_size=0, max_size=14), min_size=0, max_size=60
).map(" ".join)
LONG = st.integers(250, 300).map(lambda n: "Heart and lungs ok. " * (n // 4) + "___ end of it")


@given(text=st.one_of(TEXT, LONG), length=st.integers(8, 60))
@settings(max_examples=150, deadline=None)
def test_tokens_words_and_sentences_agree(wordpiece, text, length):
    sentences = caption(text, None)
    if sentences is None:
        return
    words = [word for sentence in sentences for word in sentence]
    owners = [s for s, sentence in enumerate(sentences) for _ in sentence]
    found = encoded(wordpiece, [sentences], length)
    ids, word, sentence, flags = found.ids[0], found.word[0], found.sentence[0], found.mesh[0]
    used = int((ids != 0).sum())
    assert (ids[0], ids[used - 1]) == (2, 3)
    assert (ids[used:] == 0).all()
    inside = word[1 : used - 1]
    assert (inside >= 0).all()
    assert word[0] == word[used - 1] == -1
    assert (word[used:] == -1).all()
    assert (np.diff(inside) >= 0).all()
    assert (np.diff(inside) <= 1).all()
    assert inside[0] == 0
    stored = int(inside[-1]) + 1
    names = {i: token for token, i in wordpiece.get_vocab().items()}
    spelt = [""] * stored
    for token, owner in zip(ids[1 : used - 1], inside, strict=True):
        spelt[owner] += names[int(token)].removeprefix("##")
    assert spelt[:-1] == words[: stored - 1]
    assert words[stored - 1].startswith(spelt[-1])
    whole = stored - (spelt[-1] != words[stored - 1])
    assert found.words == len(words)
    assert found.words_cut == len(words) - whole
    assert found.truncated == (found.words_cut > 0)
    assert found.unknown == 0
    if used < length:
        assert found.words_cut == 0
    assert sentence[:stored].tolist() == owners[:stored]
    assert (sentence[stored:] == -1).all()
    headings = mesh.headings("radiology")
    assert flags[:stored].tolist() == [w in headings for w in words[:stored]]
    assert not flags[stored:].any()


def test_ids_are_those_of_the_reference_tokenizer(wordpiece, tmp_path):
    """transformers' BERT tokenizer on the joined caption, cut and padded as the official code."""
    transformers = pytest.importorskip("transformers")
    vocabulary = sorted(wordpiece.get_vocab(), key=wordpiece.get_vocab().__getitem__)
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    reference = transformers.BertTokenizer(str(tmp_path / "vocab.txt"))
    if len(reference) != len(vocabulary):  # transformers 5 wants the vocabulary itself
        reference = transformers.BertTokenizer(vocab=wordpiece.get_vocab())
    texts = ["Small left effusion ___ 12. Zq9x heart seen.", "no pneumothorax in the lungs " * 20]
    captions = [caption(text, None) for text in texts]
    found = encoded(wordpiece, captions, 30).ids
    for row, sentences in zip(found, captions, strict=True):
        joined = " ".join(word for words in sentences for word in words)
        joined = re.sub(r"_ (?=_)", "_", joined)
        expected = reference(joined, max_length=30, padding="max_length", truncation=True)
        assert row.tolist() == expected["input_ids"]


def test_a_word_that_the_vocabulary_cannot_spell_is_one_counted_token():
    small = tokenizer.wordpiece([*tokenizer.SPECIAL, "clear", "lungs", "are"])
    found = encoded(small, [[["lungs", "are", "opaque"]]], 8)
    assert found.ids[0].tolist() == [2, 6, 7, 1, 3, 0, 0, 0]
    assert found.unknown == 1


def test_the_published_vocabulary_says_where_it_belongs(tmp_path):
    file = tmp_path / "weights/bioclinicalbert/vocab.txt"
    with pytest.raises(
        DataError, match=r"bioclinicalbert/vocab.txt: no such file.*put vocab.txt of"
    ):
        tokenizer.load(file, 28996)
    file.parent.mkdir(parents=True)
    tokens = ["[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "heart", "##s"]
    file.write_text("\n".join(tokens) + "\n")
    with pytest.raises(DataError, match=r"8 tokens.*28996"):
        tokenizer.load(file, 28996)
    loaded = tokenizer.load(file, 8)
    assert loaded.encode("hearts", add_special_tokens=False).ids == [6, 7]
    assert tokenizer.special(loaded)["[MASK]"] == 5
    file.write_text("\n".join([*tokens[:5], "x", "y", "z"]) + "\n")
    with pytest.raises(DataError, match=r"no \[MASK\]"):
        tokenizer.load(file, 8)


def test_the_heading_list_behaves_as_the_official_one(request):
    headings = mesh.headings("radiology")
    inside = "heart lung pulmonary pleural effusion effusions pneumothorax cardiomegaly edema"
    inside += " pneumonia right left small acute human"
    assert headings.issuperset(inside.split())
    outside = ["atelectasis", "consolidation", "opacity", "chest", "lungs", "normal"]
    assert headings.isdisjoint([*outside, "_"])
    assert all(re.fullmatch(r"[a-z]+", word) for word in headings)
    assert len(headings) > 300
