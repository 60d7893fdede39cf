"""The tables of docs/scaling.md: rates, disk, jobs, what authors state, more data."""

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence

from benchmarks import runner, scaling
from benchmarks.scaling import CARDS, DOCUMENT, MORE, SHARE, Line, about, figure, over, size, sizes
from cxrmim import grid
from cxrmim.manifest.contract import MOST_ROWS
from cxrmim.paths import Paths
from cxrmim.plan import Plan

FLOAT, STATES, THREADS = 4, 3, 8  # bytes; weights and two moments; that verify checksums
PREPARED = {  # the measured case that a reader's files are like, and whether those are larger
    "mimic": ("preparing JPEG 3056 x 2544 to 512 px, scaled", ""),
    "chexpert": ("preparing JPEG 3056 x 2544 to 256 px, scaled", "at most "),
    "covidx": ("preparing PNG 1024 x 1024 to 256 px", ""),
    "nih": ("preparing PNG 1024 x 1024 to 256 px", ""),
    "siim": ("preparing DICOM 1024 x 1024 and mask to 256 px", ""),
    "rsna": ("preparing DICOM 1024 x 1024 to 256 px", ""),
}
OPENING, MANIFEST = "opening a store, every checksum verified", "manifest of NIH: memory a row"
TABLE = "reader of shards: memory a row of its table"


def main(argv: Sequence[str]) -> int:
    """Print the tables, or write them into the document."""
    out = argparse.ArgumentParser(prog="python -m benchmarks.scaling")
    out.add_argument("--document", action="store_true", help="rewrite the tables of the document")
    if out.parse_args(argv).document:
        text = DOCUMENT.read_text(encoding="utf-8")
        DOCUMENT.write_text(filled(text), encoding="utf-8")
    else:
        sys.stdout.write("\n".join(markdown(table()) for table in TABLES.values()))
    return 0


def filled(text: str) -> str:
    """The document with every table between its markers made anew.

    Raises:
        ValueError: markers of a table are missing.
    """
    for name, table in TABLES.items():
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
        before, first, rest = text.partition(begin)
        _, last, after = rest.partition(end)
        if not (first and last):
            raise ValueError(f"{DOCUMENT.name}: markers of {name} are missing")
        text = f"{before}{begin}\n{markdown(table())}\n{end}{after}"
    return text


def markdown(lines: Iterator[Line]) -> str:
    """Lines, the first of them heads, as a Markdown table."""
    heads = next(lines)
    both = [heads, ["---"] * len(heads), *lines]
    return "".join(f"| {' | '.join(line)} |\n" for line in both)


def assumed_table() -> Iterator[Line]:
    """The rates that hours are computed with."""
    yield ["card and precision", "peak of its data sheet, TFLOP/s", "assumed share", "status"]
    for card, peak in CARDS.items():
        line = [card, runner.number(peak / 1e12), f"{SHARE:.0%}"]
        yield [*line, scaling.PROJECTED]


def stated_table() -> Iterator[Line]:
    """What authors state beside what this grid projects for the same training."""
    yield ["training", "authors: cards", "authors: GPU h", "TFLOP/s a card that this means",
           "here: GPU h, H100 SXM, bf16", "status of ours"]  # fmt: skip
    for entry, (cards, days, name) in scaling.STATED.items():
        hours, work = cards * days * 24, scaling.pretraining(entry)
        rate = work.flops / (hours * 3600) / 1e12
        here = runner.number(work.hours("H100 SXM, bf16"))
        yield [entry, f"{cards} x {name}", str(hours), runner.number(rate), here, scaling.PROJECTED]
    yield ["cmitm", "4 x V100", "not stated", "", hours_of("cmitm-s1", "cmitm"), scaling.PROJECTED]
    yield ["medim", "not stated", "not stated", "", hours_of("medim"), scaling.PROJECTED]


def hours_of(*entries: str) -> str:
    """Projected hours of pretrainings on the first card."""
    card = next(iter(CARDS))
    return runner.number(sum(scaling.pretraining(entry).hours(card) for entry in entries))


def validation_table() -> Iterator[Line]:
    """Image passes of fine-tuning: learnt from, and only looked at."""
    yield ["dataset", "labels", "steps", "validations", "M images learnt from", "M validated",
           "validation's share of FLOPs"]  # fmt: skip
    seen = set()
    for run in grid.runs(scaling.params()):
        key = (run.dataset, run.percent)
        if run.task != "finetune" or run.baseline is not None or key in seen:
            continue
        seen.add(key)
        work = scaling.run(run, True)
        learnt = (work.flops / scaling.encoder() - work.images) / (scaling.TRAINED - 1)
        valid, test = sizes(run.dataset)[1:]
        looked = work.images - learnt
        count = (looked - test) / valid
        steps = learnt / scaling.params().downstream.finetune["batch"]
        part = looked / (looked + scaling.TRAINED * learnt)
        yield [run.dataset, f"{run.percent} %", runner.number(steps), runner.number(count),
               runner.number(learnt / 1e6), runner.number(looked / 1e6), f"{part:.0%}"]  # fmt: skip


def disk_table() -> Iterator[Line]:
    """Raw files, stored arrays and the one-time work of each reading."""
    yield ["reading", "images", "side, px", "raw files (size of like files)", "arrays",
           "preparing, core hours"]  # fmt: skip
    total = 0.0
    for dataset in grid.datasets(scaling.params()):
        reader, count = grid.reader(scaling.params(), dataset), sum(sizes(dataset))
        what, most = PREPARED[reader]
        row = scaling.found_row("shards_prepare", what)
        raw = "not measured" if row is None else size(count * row["details"]["MB a file"] * 1e6)
        rate = figure("shards_prepare", what)
        total += scaling.stored(dataset)
        yield [dataset, f"{count:,}", str(scaling.params().side(dataset)),
               raw if rate is None else most + raw, size(scaling.stored(dataset)),
               over(count, rate) if rate is None else most + over(count, rate)]  # fmt: skip
    yield ["sum", "", "", "", size(total), ""]


def kept_table() -> Iterator[Line]:
    """What else lies on the disk."""
    yield ["what", "how many", "bytes"]
    params = scaling.params()
    counts = [scaling.step(item.entry)[1] for item in grid.pretrainings(params)]
    yield ["checkpoints, float32", str(len(counts)), size(sum(counts) * FLOAT)]
    kept = params.pretrain.save.keep * STATES * FLOAT
    yield ["states to resume from, while a pretraining runs (the largest)", "1",
           size(max(counts) * kept)]  # fmt: skip
    runs = [r for r in grid.runs(params) if r.baseline is None]
    scored = [r for r in runs if r.task in ("probe", "finetune")]
    total = sum(sizes(r.dataset)[2] * 2 * classes(r.dataset) * FLOAT for r in scored)
    yield ["predictions of probes and fine-tunings, before compression", str(len(scored)),
           size(total)]  # fmt: skip
    pairs = {(r.checkpoint, r.dataset) for r in runs if r.task == "probe"}
    yield ["features that jobs hand on, both poolings", str(len(pairs)),
           size(sum(features(dataset) for _, dataset in pairs))]  # fmt: skip


def classes(dataset: str) -> int:
    """Labels of a dataset."""
    from cxrmim.plugins import load

    return len(load("dataset", grid.reader(scaling.params(), dataset)).LABELS)


def features(dataset: str) -> float:
    """Bytes of a dataset's features under both poolings."""
    return 2.0 * FLOAT * scaling.params().pretrain.vit.width * sum(sizes(dataset))


def jobs_table() -> Iterator[Line]:
    """What the scheduler sees, now and with more images."""
    plan = Plan(scaling.params(), Paths("paper"))
    yield ["", "now", f"{MORE} x the images"]
    for stop, count in plan.submitted.items():
        yield [f"{stop} jobs", str(count), str(count)]
    files = len(set(plan.targets))
    yield ["files that `rule all` names", str(files), str(files)]


def more_table() -> Iterator[Line]:
    """What grows with the images."""
    yield ["what", "now", f"{MORE} x", "grows with"]
    corpus, largest = "mimic", "chexpert"
    stored, opening = scaling.stored(corpus), figure("shards_read", OPENING)
    every = sum(scaling.stored(name) for name in grid.datasets(scaling.params()))
    rows, images = about(corpus).images, sum(sizes(corpus))
    works = [w for _, _, kind, w, _ in scaling.jobs() if kind == "pretraining"]
    hours = sum(work.hours(next(iter(CARDS))) for work in works)
    ranked = figure("retrieval", "retrieval, 42,000 pairs")
    one_time = figure("shards_prepare", PREPARED[corpus][0])
    yield ["arrays of the corpus", size(stored), size(MORE * stored), "images"]
    yield ["arrays of all readings", size(every), size(MORE * every), "images"]
    yield both("reading MIMIC's files once", images, one_time, 3600, "core h")
    yield both("checksums when a job opens the corpus", stored / 1e9, opening, 60, "core min")
    together = len(works) * stored / 1e9
    yield both("the same, of all pretrainings together", together, opening, 3600, "core h")
    yield [f"rows of MIMIC's table; the reader refuses more than {MOST_ROWS:,}", f"{rows:,}",
           f"{MORE * rows:,}", "images"]  # fmt: skip
    yield memory("manifest stop: memory", rows, figure("growth", MANIFEST))
    yield memory("a reader's table: memory of each process", images, figure("growth", TABLE))
    yield ["features of CheXpert in a probing job's memory", size(features(largest)),
           size(MORE * features(largest)), "images"]  # fmt: skip
    yield ["ranking the held-out pairs, one core", over(ranked or 0, ranked and 1, 1, "s"),
           over(MORE**2 * (ranked or 0), ranked and 1, 3600, "h"), "pairs squared"]  # fmt: skip
    yield ["pretraining, GPU h, H100 SXM, bf16 (projection, not measured)", runner.number(hours),
           runner.number(MORE * hours), "images x epochs"]  # fmt: skip


def both(what: str, amount: float, rate: float | None, unit: float, says: str) -> Line:
    """A line of a quantity over a measured rate, now and with more images."""
    return [what, *(over(n * amount, rate, unit, says) for n in (1, MORE)), "images"]


def memory(what: str, rows: int, kib: float | None) -> Line:
    """A line of a measured number of KiB a row."""
    return [
        what,
        *("not measured" if kib is None else size(n * rows * kib * 1024) for n in (1, MORE)),
        "images",
    ]


TABLES: dict[str, Callable[[], Iterator[Line]]] = {
    "assumed": assumed_table,
    "stops": scaling.stop_table,
    "pretraining": scaling.pretraining_table,
    "validation": validation_table,
    "wall": scaling.wall_table,
    "stated": stated_table,
    "disk": disk_table,
    "kept": kept_table,
    "jobs": jobs_table,
    "more": more_table,
}
