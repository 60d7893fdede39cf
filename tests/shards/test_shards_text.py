"""Captions and whole reports against slow references: tokens, words, sentences, flags, cuts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from cxrmim.errors import DataError
from cxrmim.pretrain.parts.words import collate
from cxrmim.shards import tokenizer
from cxrmim.shards.store import Reports
from cxrmim.shards.text import caption, encode, encode_raw

TRAINING = [
    [["small", "left", "pleural", "effusion"], ["no", "pneumothorax"]],
    [["heart", "size", "is", "normal"], ["the", "lungs", "are", "clear"]],
]
HEADINGS = frozenset({"left", "pleural", "heart", "2", "a"})
TRAINED = tokenizer.train(TRAINING, 120)
# No letter stands in it alone, so that most words are unknown.
POOR = tokenizer.wordpiece([*tokenizer.SPECIAL, "heart", "##s", "the", "_", "a", "##a", "2"])
RAW = tokenizer.train_raw(["Heart size is NORMAL (2.5 cm).", "No pneumothorax // ___."], 200)


def pieces_of(wordpiece):
    return lambda word: list(wordpiece.encode(word, add_special_tokens=False).ids)


def encoded(captions, length=40, wordpiece=TRAINED):
    special = tokenizer.special(wordpiece)
    return encode(captions, pieces_of(wordpiece), special, HEADINGS, length)


@pytest.mark.parametrize(
    ("impression", "findings", "expected"),
    [
        ("No acute process.", "Lungs are clear.", "no acute process|lungs are clear"),
        ("One two\nthree", None, "one two three"),
        ("1. First item here 2. Second item.", "", "first item here|second item"),
        ("Size is 2.5 cm wide.", "", "size is|5 cm wide"),  # "2." splits
        ("In 2019 12.30. was seen", "", "in 2019|was seen"),  # "12." and "30.", one-token rest
        ("Stable. No change at all.", "", "no change at all"),  # one-token sentence dropped
        ("Pt ___ seen, by Dr. ___ today ok", "", "pt _ _ _ seen by dr|_ _ _ today ok"),
        ("Left_lung is clear", "", "left _ lung is clear"),
        ("Größe der Läsion", "", "gre der lsion"),  # non-ASCII stripped
        ("Heart-size: normal!", "", "heart size normal"),
        ("size \u0663. was noted here", "", "size|was noted here"),  # Arabic digits number no list
        ("İstanbul is \u212aelvin cold", "", "i stanbul is kelvin cold"),  # as lower() has it
    ],
)
def test_caption_rules(impression, findings, expected):
    found = caption(impression, findings)
    assert "|".join(" ".join(words) for words in found) == expected


@pytest.mark.parametrize("text", ["", "No change.", "One. Two. Three.", "é è ê ë", None])
def test_a_report_of_fewer_than_three_tokens_is_none(text):
    assert caption(text, None) is None


def test_the_short_sentence_rule_counts_before_the_stripping():
    assert caption("é normal here now. ok", "") == [["normal", "here", "now"]]
    assert caption("ê clear. One two", "") == [["clear"], ["one", "two"]]


def slow_caption(text: str) -> list[list[str]] | None:
    """Kept tokens by sentence, as the official code joins them: underscores in their words."""
    text, at, parts = text.replace("\n", " "), 0, [""]
    while at < len(text):
        end = at
        while end < len(text) and text[end] in "0123456789":
            end += 1
        if end > at and text[end : end + 1] == ".":  # a list number
            parts.append("")
            at = end + 1
        elif end > at:
            parts[-1] += text[at:end]
            at = end
        else:
            parts[-1] += text[at]
            at += 1
    sentences = []
    for sentence in (s for part in parts for s in part.split(".")):
        tokens, inside = [], False
        for sign in sentence.lower():
            is_word = sign.isalnum() or sign == "_"
            if is_word and not inside:
                tokens.append("")
            if is_word:
                tokens[-1] += sign
            inside = is_word
        if len(tokens) <= 1:
            continue
        kept = ["".join(s for s in token if ord(s) < 128) for token in tokens]
        sentences.append([token for token in kept if token])
    count = sum(len(sentence) for sentence in sentences)
    return [s for s in sentences if s] if count >= 3 else None


def slow_words(sentences: list[list[str]]) -> tuple[str, list[int], list[str], list[int]]:
    """The joined caption; per character its word, -1 between words; words; their sentences."""
    joined, owner, words, numbers = "", [], [], []
    for number, sentence in enumerate(sentences):
        for token in sentence:
            joined += " " if joined else ""
            owner += [-1] if len(joined) > len(owner) else []
            previous = ""
            for sign in token:
                if sign == "_" or previous in ("", "_"):
                    words.append("")
                    numbers.append(number)
                words[-1] += sign
                owner.append(len(words) - 1)
                joined += sign
                previous = sign
    return joined, owner, words, numbers


def bert(wordpiece) -> Tokenizer:
    """The usual BERT tokeniser over the same vocabulary: it sees the joined caption only."""
    reference = Tokenizer.from_str(wordpiece.to_str())
    reference.normalizer = BertNormalizer(lowercase=False)
    reference.pre_tokenizer = BertPreTokenizer()
    return reference


SIGNS = "abzAZ09 ._-/\n\té\u00fcßİ\u212a²½\u0663中国🫁\u200d\u0301\x00\x1c\x85\u2028\ufffd\ufb01"
SCRAPS = ["heart", "Left", "pleural", "hearts", "the", "___", "_x_", "a__b", "2.", "12.5", "."]
SCRAPS += ["\n", "x" * 100, "a" * 101, "1" * 130, "_" * 80, "Größe", "naïve", "\u0435", "\u017f"]
WORDY = st.lists(st.sampled_from(SCRAPS), max_size=350).map(" ".join)
GLUED = st.lists(st.sampled_from([*SCRAPS, *SIGNS]), max_size=80).map("".join)
TEXT = st.one_of(st.text(), st.text(alphabet=SIGNS, max_size=200), WORDY, GLUED)
LONG = "Heart and lungs ok. " * 75 + "___ end of it"


@given(text=TEXT, length=st.integers(8, 160), poor=st.booleans())
@example(text=LONG, length=112, poor=False)
@example(text=LONG, length=400, poor=True)
@example(text="a " * 110 + "left", length=112, poor=False)  # the last word is cut
@example(text="a " * 109 + "left", length=112, poor=True)  # it just fits
@settings(max_examples=400)
def test_every_token_belongs_to_its_word(text, length, poor):
    """Ids, words, sentences, flags and counts against BERT's tokens of the joined caption."""
    wordpiece = POOR if poor else TRAINED
    sentences, expected = caption(text, None), slow_caption(text)
    assert (sentences is None) == (expected is None)
    if sentences is None:
        return
    joined, owner, words, numbers = slow_words(expected)
    assert [word for sentence in sentences for word in sentence] == words
    assert [i for i, sentence in enumerate(sentences) for _ in sentence] == numbers
    reference = bert(wordpiece).encode(joined, add_special_tokens=False)
    owners = [owner[start] for start, _ in reference.offsets]
    assert all(
        set(owner[start:end]) == {o}
        for (start, end), o in zip(reference.offsets, owners, strict=True)
    )
    room, total = length - 2, len(reference.ids)
    kept = min(total, room)

    found = encoded([sentences], length, wordpiece)
    special = tokenizer.special(wordpiece)
    framed = [special["[CLS]"], *reference.ids[:room], special["[SEP]"]]
    assert found.ids[0].tolist() == framed + [special["[PAD]"]] * (length - kept - 2)
    assert found.word[0].tolist() == [-1, *owners[:room], *[-1] * (length - kept - 1)]
    stored = max(owners[:room]) + 1
    empty = [-1] * (length - stored)
    assert found.sentence[0].tolist() == numbers[:stored] + empty
    flags = [word in HEADINGS for word in words[:stored]]
    assert found.mesh[0].tolist() == flags + [False] * (length - stored)
    missing = set(range(len(words))) - (set(owners[:room]) - set(owners[room:]))
    assert (found.words, found.words_cut) == (len(words), len(missing))
    assert found.truncated == (total > room)
    assert found.truncated == bool(missing)
    assert found.unknown == reference.tokens.count("[UNK]")


def test_ids_are_those_of_transformers(tmp_path):
    """transformers' own BERT tokenizer on the joined caption, cut and padded."""
    transformers = pytest.importorskip("transformers")
    vocabulary = sorted(TRAINED.get_vocab(), key=TRAINED.get_vocab().__getitem__)
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    reference = transformers.BertTokenizer(str(tmp_path / "vocab.txt"))
    if len(reference) != len(vocabulary):  # transformers 5 wants the vocabulary itself
        reference = transformers.BertTokenizer(vocab=TRAINED.get_vocab())
    texts = ["Small left effusion ___ 12. Zq9x heart_seen.", "no pneumothorax in the lungs " * 20]
    captions = [caption(text, None) for text in texts]
    found = encoded(captions, 30).ids
    for row, text in zip(found, texts, strict=True):
        joined = slow_words(slow_caption(text))[0]
        expected = reference(joined, max_length=30, padding="max_length", truncation=True)
        assert row.tolist() == expected["input_ids"]


def test_counts_of_several_reports_add_up():
    """Room for six pieces: report 0 fits, 1 loses word 5 in the middle and word 6, 2 word 6."""
    poor = [["a", "heart"], ["hearts", "the", "a"]], [["a"] * 5 + ["hearts", "the"]], [["a"] * 7]
    found = encoded(list(poor), 8, POOR)
    assert found.words == 5 + 7 + 7
    assert (found.truncated, found.words_cut) == (2, 3)
    assert found.word[0].tolist() == [-1, 0, 1, 2, 2, 3, 4, -1]
    assert found.word[1].tolist() == [-1, 0, 1, 2, 3, 4, 5, -1]
    assert found.sentence[0].tolist() == [0, 0, 1, 1, 1, -1, -1, -1]
    found = encoded([[["opaque", "a", "zz"]]], 8, POOR)
    assert found.ids[0].tolist() == [2, 1, 9, 1, 3, 0, 0, 0]
    assert (found.unknown, found.truncated) == (2, 0)


def test_the_released_word_count_still_loses_the_last_word_of_a_full_caption():
    """attn_shift acts on what is stored; the store itself keeps the word (exactness A2)."""
    found = encoded([[["a"] * 6], [["a"] * 9], [["a"] * 4]], 8, POOR)
    reports = Reports(found.ids, found.word, found.sentence, found.mesh, POOR.get_vocab())
    rows = np.arange(3)
    assert collate(reports, rows).count.tolist() == [6, 6, 4]
    assert collate(reports, rows, released=True).count.tolist() == [5, 5, 5]  # 4 words and SEP
    assert (found.truncated, found.words_cut) == (1, 3)


@pytest.mark.parametrize("length", [32768, 70000])
def test_word_numbers_fit_their_integers(length):
    with pytest.raises(DataError, match=rf"shards.text: {length} tokens .* at most 32767"):
        encoded([], length)
    with pytest.raises(DataError, match="at most 32767"):
        encode_raw([], RAW.get_vocab(), length)


def test_the_longest_word_numbers_are_stored_as_they_are():
    found = encoded([[["a"] * 40000]], 32767, POOR)
    assert found.word[0, -2] == 32764
    assert found.words_cut == 40000 - 32765
    raw = encode_raw([[RAW.get_vocab()["a"]] * 40000], RAW.get_vocab(), 32767)
    assert raw.word[0, -1] == 32765


def test_no_reports_at_all():
    assert encoded([], 12).ids.shape == encode_raw([], RAW.get_vocab(), 12).word.shape == (0, 12)


SIZE = 10_000_000
HUGE = {
    "digits": "1" * SIZE,
    "digits and dots": "12." * (SIZE // 3),
    "one word": "a" * SIZE,
    "underscores": "_" * (SIZE // 10),
    "non-ASCII": "é" * SIZE,
    "dots": "." * SIZE,
    "a report": "heart and lungs are normal. " * (SIZE // 28),
}


@pytest.mark.parametrize("name", HUGE)
@pytest.mark.timeout(120)
def test_a_report_of_10_mb_takes_no_more_than_linear_time(name):
    """Anything that grows with the square would take hours: the time-out is the test."""
    found = caption(HUGE[name], "left lung clear. ")
    assert found is not None
    assert [word for words in found for word in words][-3:] == ["left", "lung", "clear"]
    assert encoded([found], 112).ids.shape == (1, 112)


def official_raw(text: str, length: int) -> list[int]:
    """MRM's loader: the literal prefix, truncation and padding by the tokenizer itself."""
    reference = Tokenizer.from_str(RAW.to_str())
    reference.enable_truncation(max_length=length)
    reference.enable_padding(length=length)
    return reference.encode("[CLS] " + text).ids


def raw(text: str, length: int):
    encoding = RAW.encode(text, add_special_tokens=False)
    return encoding, encode_raw([encoding.ids], RAW.get_vocab(), length)


@given(text=TEXT, length=st.integers(8, 120))
@example(text=LONG, length=100)
@example(
    text=" FINAL REPORT\n EXAMINATION:  CHEST (PA AND LAT)\n \n Größe 2.5cm // ___F\n", length=100
)
@settings(max_examples=300)
def test_whole_reports_are_those_of_the_official_loader(text, length):
    assume(not any(token in text for token in tokenizer.RAW_SPECIAL))
    encoding, found = raw(text, length)
    assert found.ids[0].tolist() == official_raw(text, length)
    words: list[int] = []
    for token in encoding.tokens:
        words.append(words[-1] if words and token.startswith("##") else max(words, default=-1) + 1)
    room = length - 1
    expected = [-1, *words[:room]]
    assert found.word[0].tolist() == expected + [-1] * (length - len(expected))
    if "#" not in text:
        assert words == encoding.word_ids  # the splitter's own words
    missing = set(words[room:])
    assert (found.words, found.words_cut) == (len(set(words)), len(missing))
    assert found.truncated == bool(missing)
    assert found.unknown == encoding.tokens.count("[UNK]")


def test_a_whole_report_by_hand():
    vocabulary = {token: i for i, token in enumerate([*tokenizer.RAW_SPECIAL, "heart", "##s", "."])}
    reports = [[4, 5, 6, 4], [4, 4, 4, 5, 5, 6], [1, 5, 6, 1], [], [5, 5, 4]]
    found = encode_raw(reports, vocabulary, 5)
    assert found.ids.tolist() == [
        [2, 4, 5, 6, 4],
        [2, 4, 4, 4, 5],  # word 2 is cut in the middle, word 3 is gone
        [2, 1, 5, 6, 1],
        [2, 0, 0, 0, 0],
        [2, 5, 5, 4, 0],
    ]
    assert found.word.tolist() == [
        [-1, 0, 0, 1, 2],
        [-1, 0, 1, 2, 2],
        [-1, 0, 0, 1, 2],
        [-1, -1, -1, -1, -1],
        [-1, 0, 0, 1, -1],  # a continuation without a head begins a word
    ]
    assert (found.words, found.truncated, found.words_cut, found.unknown) == (12, 1, 2, 2)
    assert (found.ids.dtype, found.word.dtype) == (np.int32, np.int16)


def test_special_tokens_spelt_out_in_a_report_stay_text():
    for token in tokenizer.RAW_SPECIAL:
        ids = raw(f"heart {token} heart", 40)[1].ids[0]
        assert (ids[1:] > 3)[: np.flatnonzero(ids)[-1]].all()
