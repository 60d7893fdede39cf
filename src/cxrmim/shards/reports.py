"""A corpus' reports as arrays: captions, and whole reports for methods that read them.

Captions are impression and findings (protocols §1.1); MRM reads the report as it stands (§2, MRM).
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from cxrmim.errors import DataError
from cxrmim.schema import RawText, ShardText
from cxrmim.shards import mesh, text, tokenizer

Tree = dict[str, Any]
SHORT = f"report has fewer than {text.SHORTEST} tokens"
BATCH = 4096  # whole reports tokenised at a time


def inputs(params: ShardText) -> dict[str, Path]:
    """Published files that `write_reports` reads, by name: vocabularies and MeSH descriptors."""
    found: dict[str, Path] = {}
    if params.tokenizer != "phantom":
        found["vocabulary"] = tokenizer.VOCABULARY
    if params.raw is not None and params.raw.tokenizer != "phantom":
        found["raw_vocabulary"] = tokenizer.RAW_VOCABULARY
    if params.mesh.source == "nlm" and params.mesh.file is not None:
        found["mesh"] = Path(params.mesh.file)
    return found


def captions(table: pd.DataFrame, dataset: str) -> pd.Series:
    """Sentences of each row's report as lists of words, None where it is too short.

    Args:
        table: manifest rows with study, impression and findings.
        dataset: for messages.

    Raises:
        DataError: no row has a report.
    """
    if not (table["impression"].notna() | table["findings"].notna()).any():
        raise DataError(
            f"{dataset}: the corpus has no reports; set pretrain.corpus to a dataset that does"
        )
    first = table.drop_duplicates("study")  # images of a study share one report, and its words
    pairs = zip(first["impression"], first["findings"], strict=True)
    found = [text.caption(_text(i), _text(f)) for i, f in pairs]
    of_study = dict(zip(first["study"], found, strict=True))
    return pd.Series([of_study[s] for s in table["study"]], dtype=object, index=table.index)


def write_reports(kept: pd.DataFrame, params: ShardText, out: Path) -> tuple[Tree, Tree]:
    """Tokenise each study's report once.

    Args:
        kept: rows whose report is used: study, split, sentences (of `captions`), report (the whole
            text; needed if `raw` is set).
        params: `shards.text`.
        out: folder that gets report.npy, the row of each image's report in all of: ids, word,
            sentence and mesh.npy (`store.Reports`) with vocab.json and, if `raw` is set,
            raw_ids.npy and raw_word.npy (`store.RawReports`) with raw_vocab.json.

    Returns:
        (metrics, details): counts, those of whole reports below `raw`; shapes of the ids and facts
        about the MeSH list that made the flags.

    Raises:
        DataError: a vocabulary or the MeSH file is missing or wrong, or whole reports are missing.
        ParamsError: the MeSH file is not named.
    """
    codes, _ = pd.factorize(kept["study"])
    first = kept.drop_duplicates("study")
    training = (first["split"] == "train").to_numpy(dtype=bool)
    found = mesh.headings(params.mesh)
    encoded, metrics = _captions(list(first["sentences"]), training, found, params, out)
    details: Tree = {"ids": list(encoded.ids.shape), "mesh": found.facts()}
    if params.raw is not None:
        metrics["raw"], details["raw_ids"] = _whole(first["report"], training, params.raw, out)
    np.save(out / "report.npy", codes.astype(np.int64))
    return metrics, details


def _captions(
    sentences: list[text.Sentences],
    training: npt.NDArray[np.bool_],
    found: mesh.Headings,
    params: ShardText,
    out: Path,
) -> tuple[text.Encoded, Tree]:
    if params.tokenizer == "phantom":
        learn = [caption for caption, used in zip(sentences, training, strict=True) if used]
        wordpiece = tokenizer.train(learn, params.vocab)
    else:
        wordpiece = tokenizer.load(tokenizer.VOCABULARY, params.vocab)
    encoded = text.encode(
        sentences,
        lambda word: list(wordpiece.encode(word, add_special_tokens=False).ids),
        tokenizer.special(wordpiece),
        found.words,
        params.length,
    )
    for name in ("ids", "word", "sentence", "mesh"):
        np.save(out / f"{name}.npy", getattr(encoded, name))
    (out / "vocab.json").write_text(wordpiece.to_str(pretty=True), encoding="utf-8")
    counts = {
        "reports": len(sentences),
        "vocabulary": int(wordpiece.get_vocab_size()),
        "words": encoded.words,
        "truncated": encoded.truncated,
        "words_cut": encoded.words_cut,
        "unknown_words": encoded.unknown,
        "mesh_words": int(encoded.mesh.sum()),
        "reports_without_mesh": int((~encoded.mesh.any(axis=1)).sum()),
    }
    return encoded, counts


def _whole(
    reports: pd.Series, training: npt.NDArray[np.bool_], params: RawText, out: Path
) -> tuple[Tree, list[int]]:
    """Write whole reports; returns counts and the shape of the ids."""
    if reports.isna().any():
        raise DataError(
            f"{int(reports.isna().sum())} of {len(reports)} studies of the corpus have no whole "
            f"report; set shards.text.raw: null if no method reads them, else pretrain.corpus to a "
            f"dataset that has them"
        )
    texts = [str(report) for report in reports]
    if params.tokenizer == "phantom":
        learn = (report for report, used in zip(texts, training, strict=True) if used)
        wordpiece = tokenizer.train_raw(learn, params.vocab)
    else:
        wordpiece = tokenizer.load_raw(tokenizer.RAW_VOCABULARY, params.vocab)
    pieces = (
        encoding.ids
        for start in range(0, len(texts), BATCH)
        for encoding in wordpiece.encode_batch(
            texts[start : start + BATCH], add_special_tokens=False
        )
    )
    encoded = text.encode_raw(pieces, wordpiece.get_vocab(), params.length)
    np.save(out / "raw_ids.npy", encoded.ids)
    np.save(out / "raw_word.npy", encoded.word)
    (out / "raw_vocab.json").write_text(wordpiece.to_str(pretty=True), encoding="utf-8")
    counts = {
        "vocabulary": int(wordpiece.get_vocab_size()),
        "words": encoded.words,
        "truncated": encoded.truncated,
        "words_cut": encoded.words_cut,
        "unknown_words": encoded.unknown,
    }
    return counts, list(encoded.ids.shape)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None
