"""WordPiece vocabularies: what training makes, what published files must hold."""

from __future__ import annotations

import json
import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxrmim.errors import DataError
from cxrmim.shards import tokenizer

TRAINING = [
    [["small", "left", "pleural", "effusion"], ["no", "pneumothorax"]],
    [["heart", "size", "is", "normal"], ["the", "lungs", "are", "clear"]],
]
REPORTS = [" FINAL REPORT\n FINDINGS:  Heart size is normal (2.5 cm).\n", "No change // ___ &c."]


@pytest.fixture(scope="module")
def wordpiece():
    return tokenizer.train(TRAINING, 120)


@pytest.fixture(scope="module")
def raw():
    return tokenizer.train_raw(REPORTS * 5, 300)


def test_specials_and_spelling(wordpiece):
    assert tokenizer.special(wordpiece) == {t: i for i, t in enumerate(tokenizer.SPECIAL)}
    assert wordpiece.get_vocab_size() <= 120
    assert wordpiece.encode("zq9x", add_special_tokens=False).tokens == ["z", "##q", "##9", "##x"]


def test_raw_specials_and_form(raw):
    """protocols §2, MRM: lower, NFKD, accents stripped; ids 0 to 3, no [SEP]; runs of digits."""
    vocabulary = raw.get_vocab()
    assert [vocabulary[t] for t in ("[PAD]", "[UNK]", "[CLS]", "[MASK]")] == [0, 1, 2, 3]
    assert "[SEP]" not in vocabulary

    def words(text):
        normal = raw.normalizer.normalize_str(text)
        return [word for word, _ in raw.pre_tokenizer.pre_tokenize_str(normal)]

    assert words("Größe É ﬁn 2²") == ["große", "e", "fin", "22"]
    assert words("//2.5CM, ___F(12)") == ["//", "2", ".", "5", "cm", ",", "___f", "(", "12", ")"]
    assert words("a12b") == ["a", "12", "b"]
    assert raw.encode("zq (~", add_special_tokens=False).tokens == ["z", "##q", "(", "##~"]
    assert raw.encode("z中", add_special_tokens=False).tokens == ["[UNK]"]
    assert "heart" in vocabulary
    assert raw.encode("[CLS]", add_special_tokens=False).tokens == ["[", "c", "##l", "##s", "]"]


def test_the_raw_vocabulary_learns_ascii_words_only():
    with_others = tokenizer.train_raw([*REPORTS * 5, "中文 中文 z中 é\u0435"], 300)
    assert with_others.to_str() == tokenizer.train_raw([*REPORTS * 5, "e"], 300).to_str()


@given(st.text(alphabet=st.characters(min_codepoint=33, max_codepoint=126), max_size=60))
@settings(max_examples=200)
def test_the_raw_vocabulary_spells_everything_in_ascii(text):
    form = tokenizer.train_raw([], 200)
    assert "[UNK]" not in form.encode(text, add_special_tokens=False).tokens


PROCESS = (
    "import sys, hashlib, random; from cxrmim.shards import tokenizer;"
    "words = ''.join(chr(97 + (i * 7919) % 26) for i in range(6000));"
    "caps = [[[words[i:i + 2 + i % 7] for i in range(s, s + 40)]] for s in range(0, 5900, 3)];"
    "random.Random(int(sys.argv[1])).shuffle(caps);"
    "reports = [' '.join(c[0]) + ' (2.5) //' for c in caps];"
    "made = tokenizer.train(caps, 300), tokenizer.train_raw(reports, 400);"
    "print([hashlib.sha256(t.to_str().encode()).hexdigest() for t in made])"
)


def test_vocabularies_do_not_depend_on_process_or_order():
    found = {
        subprocess.run(
            [sys.executable, "-c", PROCESS, str(seed)], capture_output=True, text=True, check=True
        ).stdout
        for seed in range(3)
    }
    assert len(found) == 1


def test_vocabularies_have_the_size_that_was_asked_for():
    draw = random.Random(0)
    many = ["".join(draw.choices("abcdefghij", k=9)) for _ in range(500)]
    assert tokenizer.train([[many]], 400).get_vocab_size() == 400
    assert tokenizer.train_raw([" ".join(many)], 400).get_vocab_size() == 400
    assert tokenizer.train([[["heart"]]], 400).get_vocab_size() < 400


def test_a_vocabulary_too_small_is_named():
    with pytest.raises(DataError, match=r"shards.text.vocab = 50: smaller than the 78"):
        tokenizer.train(TRAINING, 50)
    with pytest.raises(DataError, match=r"shards.text.raw.vocab = 100: smaller than the 140"):
        tokenizer.train_raw(REPORTS, 100)


def test_special_tokens_spelt_out_in_training_texts_are_words():
    made = tokenizer.train_raw(["[MASK] [CLS] heart"] * 9, 200)
    assert [made.get_vocab()[t] for t in tokenizer.RAW_SPECIAL] == [0, 1, 2, 3]
    assert "mask" in made.get_vocab()


def test_bioclinicalberts_file(tmp_path):
    file = tmp_path / "weights/bioclinicalbert/vocab.txt"
    with pytest.raises(
        DataError, match=r"bioclinicalbert/vocab.txt: no such file.*put vocab.txt of"
    ):
        tokenizer.load(file, 28996)
    file.parent.mkdir(parents=True)
    tokens = ["[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "heart", "##s"]
    file.write_text("\n".join(tokens) + "\n")
    with pytest.raises(DataError, match=r"8 tokens, not the 28996 of shards.text.vocab; put"):
        tokenizer.load(file, 28996)
    loaded = tokenizer.load(file, 8)
    assert loaded.encode("hearts", add_special_tokens=False).ids == [6, 7]
    assert tokenizer.special(loaded)["[MASK]"] == 5
    for content, wrong in (
        ([*tokens[:5], "x", "y", "z"], r"has no \[MASK\]"),
        ([*tokens[1:], "[PAD]"], r"\[PAD\] is not its first token"),
        ([*tokens[:7], "heart"], "a token stands in it twice"),
    ):
        file.write_text("\n".join(content) + "\n")
        with pytest.raises(DataError, match=wrong):
            tokenizer.load(file, 8)
    file.write_bytes(b"[PAD]\n\xff\xfe\n")
    with pytest.raises(DataError, match=r"cannot be read \(UnicodeDecodeError\)"):
        tokenizer.load(file, 8)


def mrm(tokens, **changes):
    """A tokenizers file laid out as mimic_wordpiece.json is."""
    specials = [
        {"id": i, "special": True, "content": t, "single_word": False}
        | {"lstrip": False, "rstrip": False, "normalized": False}
        for i, t in enumerate(tokenizer.RAW_SPECIAL)
    ]
    normalizers = [{"type": "Lowercase"}, {"type": "NFKD"}, {"type": "StripAccents"}]
    splitters = [{"type": "Whitespace"}, {"type": "Digits", "individual_digits": False}]
    tree = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": specials,
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": splitters},
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {t: i for i, t in enumerate(tokens)},
        },
    }
    return json.dumps(tree | changes, indent=2)


TOKENS = [*tokenizer.RAW_SPECIAL, "!", "heart", "##s"]


@pytest.fixture
def published(tmp_path):
    file = tmp_path / "weights/mrm/mimic_wordpiece.json"
    file.parent.mkdir(parents=True)
    return file


def test_mrms_file(published):
    published.write_text(mrm(TOKENS))
    loaded = tokenizer.load_raw(published, 7)
    assert loaded.encode("HEARTS! x", add_special_tokens=False).ids == [5, 6, 4, 1]
    assert loaded.to_str() == tokenizer.raw_wordpiece(TOKENS).to_str()


def test_a_missing_mrm_file_says_where_it_comes_from(published):
    with pytest.raises(DataError) as caught:
        tokenizer.load_raw(published, 30000)
    message = str(caught.value)
    assert "mimic_wordpiece.json: no such file" in message
    assert "github.com/RL4M/MRM-pytorch" in message
    assert "shards.text.raw: null" in message
    assert "\n" not in message


FRAME = {"type": "BertProcessing", "sep": ["!", 4], "cls": ["[CLS]", 2]}
WRONG = {
    "no json": ("{", "cannot be read as a tokenizer"),
    "another json": ('{"a": 1}', "cannot be read as a tokenizer"),
    "bytes": (b"\xff\xfe\x00", "cannot be read as a tokenizer"),
    "size": (mrm([*TOKENS, "a"]), "8 tokens, not the 7 of shards.text.raw.vocab"),
    "specials": (mrm(["[CLS]", "[PAD]", *TOKENS[2:]], added_tokens=[]), "its first tokens are not"),
    "gaps": (mrm(TOKENS[:6]).replace('"heart": 5', '"heart": 5, "x": 9'), "its ids are not 0, 1"),
    "normalizer": (mrm(TOKENS, normalizer={"type": "Lowercase"}), "its normalizer is not MRM's"),
    "splitter": (mrm(TOKENS, pre_tokenizer={"type": "Whitespace"}), "its pre_tokenizer is not"),
    "model": (mrm(TOKENS).replace('"##"', '"@@"'), "its model is not MRM's"),
    "frame": (
        mrm(
            TOKENS, post_processor={"type": "BertProcessing", "sep": ["!", 4], "cls": ["[CLS]", 2]}
        ),
        "its post_processor is not MRM's",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_another_tokenizers_file_is_refused(published, name):
    content, wrong = WRONG[name]
    published.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=wrong) as caught:
        tokenizer.load_raw(published, 7)
    assert "RL4M/MRM-pytorch" in str(caught.value)
    assert "\n" not in str(caught.value)
