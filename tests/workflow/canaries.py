"""Identifiers and sentences planted in raw data, and a search for every form in which they leak."""

from __future__ import annotations

import base64
import gzip
import hashlib
import html
import re
import struct
import urllib.parse
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from io import BytesIO
from itertools import islice
from pathlib import Path

import pydicom

# Words that occur nowhere else: one of them is enough to know that a report's text got out.
NONCE = ("quokkaform", "zibellinic", "vantorian", "obnubarial")
SENTENCE = "Quokkaform zibellinic opacity obscures the vantorian costophrenic recess."
SECOND = "No obnubarial effusion or pneumothorax in the right lung."
HASHES = ("md5", "sha1", "sha256", "sha512", "blake2b")
HEX = 12  # digits of a digest that are looked for: records and pages may show it shortened


def everywhere(root: Path, old: str, new: str) -> None:
    """Replace a text of the same length in every file below a root and in every name."""
    assert len(old) == len(new)
    for path in sorted(root.rglob("*"), reverse=True):  # what lies deeper comes first
        if path.is_file():
            content = path.read_bytes()
            packed = content.startswith(b"\x1f\x8b")
            content = gzip.decompress(content) if packed else content
            if old.encode() in content:
                content = content.replace(old.encode(), new.encode())
                path.write_bytes(gzip.compress(content) if packed else content)
        if old in path.name:
            path.rename(path.with_name(path.name.replace(old, new)))


def append(table: Path, line: str) -> None:
    """Add a line to a table, gzipped or not."""
    opener = gzip.open if table.suffix == ".gz" else open
    with opener(table, "ab") as file:
        file.write(line.encode() + b"\n")


def lines(table: Path) -> list[str]:
    """Lines of a table below its header."""
    content = table.read_bytes()
    return (
        (gzip.decompress(content) if table.suffix == ".gz" else content).decode().splitlines()[1:]
    )


def mimic(root: Path) -> dict[str, str]:
    """Plant two patients' ids and the sentences, and spoil reports, images and rows."""
    metadata = root / "mimic-cxr-2.0.0-metadata.csv.gz"
    frontal = [row.split(",")[:3] for row in lines(metadata) if row.split(",")[4] in ("PA", "AP")]
    (dicom, subject, study), (broken, other, _) = frontal[0], frontal[-1]
    assert subject != other
    planted = {
        "mimic subject": subject[:2] + "870653",
        "mimic study": "59170346",
        "mimic dicom": "c0ffee42-5eedfeed-0badcafe-deadbeef-feedc0de",
        "mimic dicom of a broken file": "badf00d5-5eedfeed-0badcafe-deadbeef-feedc0de",
    }
    for old, new in zip((subject, study, dicom, broken), planted.values(), strict=True):
        everywhere(root, old, new)
    for path in root.glob("files/*/*/s*.txt"):
        text = path.read_text()
        path.write_text(re.sub(r"(FINDINGS|IMPRESSION):", rf"\1: {SENTENCE} {SECOND}", text))
    used = dict.fromkeys(row[2] for row in frontal[1:-1] if row[1] not in (subject, other))
    reports = (next(root.glob(f"files/*/*/s{study}.txt")) for study in used)
    long, binary, folder, missing, bare, foreign = islice(reports, 6)
    long.write_text(SENTENCE * (1 + (1 << 20) // len(SENTENCE)))
    binary.write_text(f"FINDINGS: {SENTENCE}\0")
    folder.unlink()
    folder.mkdir()
    missing.unlink()
    bare.write_text(SENTENCE)
    foreign.write_bytes(foreign.read_bytes() + b" \xe9\x92")
    bad = next(root.rglob(f"{planted['mimic dicom of a broken file']}.jpg"))
    bad.write_bytes(bad.read_bytes()[:200] + SENTENCE.encode())
    odd = f"{NONCE[0]}/../{planted['mimic dicom']},{planted['mimic subject']}x,59170346"
    append(metadata, odd + "," * 9)
    return planted


def chexpert(root: Path) -> dict[str, str]:
    """Plant a patient of the training table and one whose image is broken; add an odd path."""
    table = root / "CheXpert-v1.0-small" / "train.csv"
    found = dict.fromkeys(re.findall(r"patient\d{5}", table.read_text()))
    first, last = next(iter(found)), next(reversed(found))
    planted = {"chexpert patient": "patient48213", "chexpert patient, broken": "patient48217"}
    for old, new in zip((first, last), planted.values(), strict=True):
        everywhere(root, old, new)
    for path in root.rglob("*.jpg"):
        if planted["chexpert patient, broken"] in path.as_posix():
            path.write_bytes(SENTENCE.encode())
    row = f"CheXpert-v1.0-small/train/patient48219/../{NONCE[1]}.jpg,Male,60,Frontal,PA"
    append(table, row + "," * 14)
    return planted | {"chexpert patient, odd path": "patient48219"}


def nih(root: Path) -> dict[str, str]:
    """Plant a patient, whose first image is broken."""
    old, new = "00000002", "00027183"
    everywhere(root, old + "_", new + "_")
    for table in root.glob("Data_Entry_*.csv"):
        text = re.sub(rf"(?m)^({new}_\d+\.png,[^,]*,\d+),2,", r"\1,27183,", table.read_text())
        table.write_text(text)
    for listed in root.glob("DatasetsSplits/*/*.txt"):  # so that every class has an AUC
        names = [line.split()[0] for line in listed.read_text().splitlines()]
        rows = [f"{name}{f' {number % 2}' * 14}\n" for number, name in enumerate(names)]
        listed.write_text("".join(rows))
    bad = min(root.rglob(f"{new}_*.png"))
    bad.write_bytes(bad.read_bytes()[:60] + SENTENCE.encode())
    return {"nih image": bad.stem, "nih patient": "27183", "nih patient, padded": new}


def rsna(root: Path) -> dict[str, str]:
    """Plant a patient, and one whose file is broken and names somebody."""
    found = [row.split(",")[0] for row in lines(root / "stage_2_train_labels.csv")]
    planted = {
        "rsna patient": "5eedcafe-c0de-4bad-beef-0123456789ab",
        "rsna patient, broken": "5eedcafe-c0de-4bad-beef-ba9876543210",
    }
    for old, new in zip((found[0], found[-1]), planted.values(), strict=True):
        everywhere(root, old, new)
    for name in planted.values():
        spoil_dicom(next(root.rglob(f"{name}.dcm")), broken=name.endswith("3210"))
    return planted


def siim(root: Path) -> dict[str, str]:
    """Plant an image, one whose file is broken, and one whose mask is."""
    table = root / "stage_2_train.csv"
    found = list(dict.fromkeys(row.split(",")[0] for row in lines(table)))
    tails = [uid.split(".3.1.4.")[1] for uid in (found[0], found[1], found[2])]
    planted = {
        "siim image": "8323329.7777.1517999888.424242",
        "siim image, broken": "8323329.7778.1517999888.535353",
        "siim image, bad mask": "8323329.7779.1517999888.646464",
    }
    for old, new in zip(tails, planted.values(), strict=True):
        everywhere(root, old, new)
    name = planted["siim image, broken"]
    spoil_dicom(next(p for p in root.rglob("*.dcm") if p.name.endswith(f"{name}.dcm")), broken=True)
    uid = f"1.2.276.0.7230010.3.1.4.{planted['siim image, bad mask']}"
    append(table, f"{uid},12 {NONCE[2]}")
    return planted


def covidx(root: Path) -> dict[str, str]:
    """Plant a patient of the test list; add lines that are no rows."""
    listed = (root / "labels" / "train_COVIDx_CXR-3A.txt").read_text().splitlines()
    row = next(line for line in listed if "-000" in line.split()[0])
    patient, name = row.split()[:2]
    new = patient[:-6] + "864209"
    everywhere(root, patient, new)
    name = name.replace(patient, new)
    image = next(root.rglob(name))
    image.write_bytes(SENTENCE.encode())
    for table in (root / "labels").glob("train_*.txt"):
        append(table, f"{NONCE[3]} 864211-only-a-name")
        append(table, f"864213-000001 {NONCE[3]}-864213.png {NONCE[3]} ricord")
    return {"covidx patient": new, "covidx file": name, "covidx file, odd": "864211-only-a-name"}


PLANT = {
    "mimic": mimic,
    "chexpert": chexpert,
    "covidx": covidx,
    "siim": siim,
    "nih": nih,
    "rsna": rsna,
}


def spoil_dicom(path: Path, *, broken: bool) -> None:
    """Give a DICOM a patient's name and invalid values that decoders like to quote."""
    data = pydicom.dcmread(path)
    data.PatientName = f"{NONCE[0]}^{NONCE[1]}"
    data.PatientID = NONCE[2]
    data.save_as(path)
    if broken:
        content = path.read_bytes()
        # Rows (0028,0010), US: a text where a number belongs
        content = content.replace(b"\x28\x00\x10\x00US\x02\x00", b"\x28\x00\x10\x00DS\x02\x00")
        path.write_bytes(content[: len(content) // 2])


@dataclass(frozen=True)
class Search:
    """A search for planted texts, and for what is derived from each alone.

    Attributes:
        texts: name -> text.
        files: name -> raw file of one patient, whose digest names it.
        digests: digest in hexadecimal, known already -> name.
    """

    texts: dict[str, str]
    files: dict[str, Path] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        plain, exact, hashed = {}, {}, {}
        for name, text in self.texts.items():
            for form in {text, text.lower(), text.upper()}:
                for start in range(3):
                    exact[self._base64(form.encode(), start)] = f"{name} in base64"
                plain[form.encode().hex().encode()] = f"{name} in hexadecimal"
                plain[form.lower().encode("utf-16-le")] = f"{name} in UTF-16"
                for seed in self._written(form):
                    for kind in HASHES:
                        hashed[hashlib.new(kind, seed).digest()] = f"{kind} of {name}"
        for name, path in self.files.items():
            for kind in HASHES:
                made = hashlib.new(kind, path.read_bytes()).digest()
                hashed[made] = f"{kind} of the file of {name}"
        runs = {made.hex()[:HEX].encode(): name for made, name in hashed.items()}
        runs |= {digest[:HEX].encode(): name for digest, name in self.digests.items()}
        short = {base64.b64encode(made[:15]): f"{name} in base64" for made, name in hashed.items()}
        patterns = [(name, self._pattern(text)) for name, text in self.texts.items()]
        for key, value in (
            ("_plain", plain),
            ("_exact", exact),
            ("_hexadecimal", runs),
            ("_base64_digests", short),
            ("_patterns", patterns),
        ):
            object.__setattr__(self, key, value)

    @staticmethod
    def _base64(content: bytes, start: int = 0) -> bytes:
        """What of a base64 text `content` alone decides, if it begins at byte `start` modulo 3."""
        whole = base64.b64encode(b"\0" * start + content)
        return whole[(0, 2, 3)[start] : len(whole) - (0, 3, 2)[(start + len(content)) % 3]]

    @staticmethod
    def _written(text: str) -> Iterator[bytes]:
        """Ways to write an id before it is hashed."""
        for head in ("", "p", "s"):
            for tail in ("", "\n", ".jpg", ".png", ".dcm", ".txt"):
                yield f"{head}{text}{tail}".encode()
        yield f'"{text}"'.encode()
        yield f'["{text}"]'.encode()

    @staticmethod
    def _pattern(text: str) -> re.Pattern[bytes]:
        """A text without regard to case and blanks; a short number only where it stands alone."""
        words = rb"[^a-z0-9]{1,40}".join(map(re.escape, text.lower().encode().split()))
        if text.isdigit() and len(text) < 8:
            words = rb"(?<![0-9a-z.])" + words + rb"(?![0-9a-z])"
        return re.compile(words)

    def found(self, data: bytes) -> list[str]:
        """Names of what is found in some bytes, in whatever is packed into them, sorted."""
        out = set()
        for part in unpacked(data):
            exact, lower = part.replace(b"-", b"+").replace(b"_", b"/"), part.lower()
            out |= {name for form, name in self._exact.items() if form in exact}
            out |= within(self._base64_digests, rb"[A-Za-z0-9+/]{20,}", 20, exact)
            out |= within(self._hexadecimal, rb"[0-9a-f]{%d,}" % HEX, HEX, lower)
            for view in {lower, *written_out(part)}:
                out |= {name for form, name in self._plain.items() if form in view}
                out |= {name for name, pattern in self._patterns if pattern.search(view)}
        return sorted(out)


def within(known: dict[bytes, str], run: bytes, size: int, data: bytes) -> set[str]:
    """Values of the keys, of one size, that stand anywhere in a run of the characters of keys."""
    runs = set(re.findall(run, data))
    windows = {found[i : i + size] for found in runs for i in range(len(found) - size + 1)}
    return {known[window] for window in windows & known.keys()}


def written_out(part: bytes) -> Iterator[bytes]:
    """A text with the escapes of HTML, JSON and addresses resolved, in lower case."""
    text = part.decode("utf-8", errors="replace")
    if "&" in text:
        yield html.unescape(text).lower().encode()
    if "\\u" in text:
        found = re.sub(r"\\u([0-9a-fA-F]{4})", lambda m: chr(int(m[1], 16)), text)
        yield found.lower().encode("utf-8", errors="replace")
    if "%" in text:
        yield urllib.parse.unquote(text).lower().encode("utf-8", errors="replace")


def unpacked(data: bytes, depth: int = 0) -> Iterator[bytes]:
    """Some bytes, and what is packed into them: gzip, zip, the text of PNG, base64."""
    yield data
    if depth == 2:
        return
    inner: list[bytes] = []
    if data.startswith(b"\x1f\x8b"):
        inner.append(gzip.decompress(data))
    if data.startswith(b"PK\x03\x04"):
        with zipfile.ZipFile(BytesIO(data)) as archive:
            inner += [archive.read(name) for name in archive.namelist()]
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        inner += png_texts(data)
    for run in set(re.findall(rb"[A-Za-z0-9+/]{24,}={0,2}", data)):
        inner.append(base64.b64decode(run[: len(run) // 4 * 4]))
    for part in inner:
        yield from unpacked(part, depth + 1)


def png_texts(data: bytes) -> Iterable[bytes]:
    """Content of a PNG's chunks, but for the pixels; unpacked where it is packed."""
    at = 8
    while at + 8 <= len(data):
        (size,), kind = struct.unpack(">I", data[at : at + 4]), data[at + 4 : at + 8]
        chunk = data[at + 8 : at + 8 + size]
        at += size + 12
        if kind in (b"IDAT", b"IHDR", b"IEND"):
            continue
        yield chunk
        for start in range(len(chunk)):
            if chunk[start] == 0x78:  # how a zlib stream begins
                try:
                    yield zlib.decompress(chunk[start:])
                except zlib.error:
                    continue
