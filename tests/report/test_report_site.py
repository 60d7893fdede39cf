"""The site: whole, local, escaped, and every cell led back to bytes."""

import base64
import hashlib
import json
import re
import subprocess
import sys
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import PurePosixPath

import pytest
from chained import COMMIT, complete, sha, whole
from fabricated import HOSTILE
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import escape

from cxrmim import grid, record
from cxrmim.errors import CheckError
from cxrmim.report import site
from cxrmim.report.book import Book
from cxrmim.report.lineage import Lineage
from cxrmim.report.site import build, leads, public, start, traced
from cxrmim.report.statistics import Comparison

LARGEST = 1_500_000  # bytes of the pages of a scale, which git keeps
VOID = {"meta", "img", "link", "br"}


class Reader(HTMLParser):
    """A page as tags, ids, links, headings; checks that tags nest and ids are unique."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.ids: set[str] = set()
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attrs) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if "id" in found:
            assert found["id"] not in self.ids, found["id"]
            self.ids.add(found["id"])
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag) -> None:
        assert self.stack.pop() == tag

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.tags if name == tag]

    def links(self) -> list[str]:
        return [a[key] for _, a in self.tags for key in ("href", "src") if key in a]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    with whole(tmp_path_factory.mktemp("site")) as world:
        yield world


@pytest.fixture(scope="module")
def book(world) -> Book:
    return Book(world.params)


@pytest.fixture(scope="module")
def pages(book) -> dict[str, str]:
    return site.pages(book)


@pytest.fixture(scope="module")
def readers(pages) -> dict[str, Reader]:
    return {name: Reader(text) for name, text in pages.items() if name.endswith(".html")}


@pytest.fixture(scope="module")
def lineage(book) -> Lineage:
    return Lineage(book.params, book.records)


def cells(book: Book):
    return [c for name in book.known for row in book.table(name).rows for c in row.cells]


def section(pages: dict[str, str], address: str) -> str:
    """The part of a trace page that is about a cell."""
    block, _, rest = address.partition(":")
    page = pages[site.trace(block)]
    return unescape(page.split(f'id="{rest}"', 1)[1].split("</section>", 1)[0])


def test_names_are_the_pages(world, pages) -> None:
    assert list(pages) == site.names(world.params)


def test_names_need_no_heavy_import() -> None:
    code = (
        "import sys; from cxrmim.report import site; from cxrmim import params; "
        "site.names(params.load()); "
        "print([m for m in ('jinja2', 'numpy', 'pandas', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_same_records_give_the_same_bytes(world, pages) -> None:
    assert site.pages(Book(world.params)) == pages


def test_every_link_leads_somewhere(world, pages, readers) -> None:
    for name, reader in readers.items():
        for link in reader.links():
            path, _, fragment = link.partition("#")
            assert ":" not in path.split("/")[0], link  # of no scheme, so local
            target = name if not path else resolve(PurePosixPath(name).parent, path)
            if target in readers:
                assert not fragment or fragment in readers[target].ids, f"{name}: {link}"
            elif target not in pages:  # beside the site, in a clone
                beside = resolve(PurePosixPath("results/demo/report"), target)
                assert (
                    beside.startswith(("results/demo/tables/", "results/demo/figures/"))
                    or (world.paths.report / target).resolve().is_file()
                ), f"{name}: {link}"


def resolve(folder: PurePosixPath, path: str) -> str:
    parts: list[str] = []
    for part in (*folder.parts, *PurePosixPath(path).parts):
        if part == ".." and parts and parts[-1] != "..":
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)


def test_pages_are_made_for_keyboards_and_screen_readers(readers) -> None:
    for name, reader in readers.items():
        assert reader.all("html")[0]["lang"] == "en"
        levels = [int(tag[1]) for tag, _ in reader.tags if re.fullmatch("h[1-6]", tag)]
        assert levels.count(1) == 1, name
        assert levels[0] == 1, name
        assert all(after - before <= 1 for before, after in pairwise(levels)), name
        assert len(reader.all("main")) == 1
        assert all(img.get("alt") for img in reader.all("img"))
        assert all("scope" in th for th in reader.all("th"))
        assert len(reader.all("table")) == len(reader.all("caption"))
        (skip,) = [a for a in reader.all("a") if a.get("class") == "skip"]
        assert skip["href"].removeprefix("#") in reader.ids
        described = [a["aria-describedby"] for _, a in reader.tags if "aria-describedby" in a]
        assert set(described) <= reader.ids


def test_only_the_one_script_may_run_and_nothing_remote(pages, readers) -> None:
    for name, reader in readers.items():
        (policy,) = [m["content"] for m in reader.all("meta") if "http-equiv" in m]
        scripts = re.findall(r"<script>(.*?)</script>", pages[name], re.DOTALL)
        digest = hashlib.sha256(scripts[0].encode()).digest()
        assert len(scripts) == 1 == len(reader.all("script"))
        assert f"script-src 'sha256-{base64.b64encode(digest).decode()}'" in policy
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert not [a for _, a in reader.tags if any(k == "style" or k[:2] == "on" for k in a)]
    for name, text in pages.items():
        if not name.endswith(".svg"):
            assert "http:" not in text and "https:" not in text, name


def test_the_words_of_reports_are_text(pages, readers) -> None:
    assert HOSTILE not in "".join(pages.values())
    assert str(escape(HOSTILE)) in pages[site.INDEX]


def test_hostile_text_of_every_other_part_is_text(book) -> None:
    parts = build.gathered(book)
    foul = replace(
        parts,
        verdicts=[replace(v, says=HOSTILE, detail=(HOSTILE,)) for v in parts.verdicts],
        slips=[replace(s, found=HOSTILE, why=HOSTILE) for s in parts.slips],
        ledger=[replace(x, paper=f"`{HOSTILE}`", code=HOSTILE) for x in parts.ledger],
        flows=[replace(f, idle=(HOSTILE,)) for f in parts.flows],
        environment=[replace(g, packages=HOSTILE) for g in parts.environment],
    )
    text = build.filled(book, foul)[site.INDEX]
    assert HOSTILE not in text
    wanted = 2 * (len(parts.verdicts) + len(parts.slips) + len(parts.ledger)) + len(parts.flows)
    assert text.count(str(escape(HOSTILE))) >= wanted + len(parts.environment)


def test_a_slip_says_whether_it_was_computed_or_read(book) -> None:
    parts = build.gathered(book)
    text = build.filled(book, parts)[site.INDEX]
    computed = sum(slip.computed for slip in parts.slips)
    assert 0 < computed < len(parts.slips)
    assert f"{len(parts.slips)} slips, {computed} of them computed from the published" in text
    for slip in parts.slips:
        (row,) = re.findall(rf'<tr><th class="left" scope="row">{slip.id}</th>.*', text)
        assert row.endswith(f"<td>{'computed' if slip.computed else 'read'}</td></tr>")


@given(st.text())
def test_backticks_make_code_and_nothing_else(text: str) -> None:
    shown = build._ticked(text)
    bare = re.sub("</?code>", "", str(shown))
    assert unescape(bare) == unescape(str(escape(text.replace("`", ""))))
    assert str(shown).count("<code>") == text.count("`") // 2 + text.count("`") % 2


def test_the_banner_stands_on_every_page(pages, readers) -> None:
    for name in readers:
        assert pages[name].count('role="note">PHANTOM DATA') == 1, name


def test_real_data_are_called_real(tmp_path) -> None:
    with whole(tmp_path, manifest={"source": "real"}) as world:
        pages = site.pages(Book(world.params))
    for name, text in pages.items():
        if name.endswith(".html"):
            assert "PHANTOM" not in text
            assert 'role="note">Real data' in text
    assert "effusion" not in pages[site.INDEX]  # a word of the made-up reports


def test_trend_has_a_site_too(tmp_path) -> None:
    with whole(tmp_path, "trend") as world:
        pages = site.pages(Book(world.params))
        assert list(pages) == site.names(world.params)
        assert "Trend: cost and gain" in pages[site.INDEX]


@pytest.mark.parametrize("scale", ["demo", "trend"])
def test_what_differs_from_the_papers_is_said_of_each_own_method(tmp_path, scale) -> None:
    """No table of scale trend is of a paper, but it trains both methods, and small ones."""
    with whole(tmp_path, scale) as world:
        book = Book(world.params)
        lineage = Lineage(book.params, book.records)
        found = start.differing(book.params, lineage)
        index = site.pages(book)[site.INDEX]
        for name, unit in (("MedIM", "medim-s0"), ("CMITM", "cmitm-s0")):
            assert len(found[name]) > 10
            assert found[name] == lineage.differing("pretrain", unit)
            assert f"{len(found[name])} parameters of {name}'s pretraining:" in index
    assert "No parameter of" not in index


def test_what_cannot_be_compared_is_not_called_equal(tmp_path, monkeypatch) -> None:
    with whole(tmp_path) as world:
        for told, words in [
            (None, "MedIM's pretraining has none at the papers' scale to be compared with"),
            ([], "No parameter of MedIM's pretraining: they are those of the papers' scale"),
        ]:
            monkeypatch.setattr(Lineage, "differing", lambda *_, told=told: told)
            assert words in site.pages(Book(world.params))[site.INDEX]
        monkeypatch.setattr(start, "PAPERS", ())
        page = site.pages(Book(world.params))[site.INDEX]
        assert "This scale trains neither paper's own method." in page


def test_the_pages_fit_into_git(pages) -> None:
    assert sum(len(t.encode()) for n, t in pages.items() if not n.endswith(".svg")) < LARGEST


def test_folders_and_jobs_of_persons_stay_out(pages) -> None:
    text = "".join(pages.values())
    assert "somebody" not in text
    assert "4711" not in re.findall(r"(?<![0-9a-f])\d+(?![0-9a-f])", text)


def test_each_cell_leads_to_the_bytes_of_its_runs(book, pages, readers) -> None:
    for cell in cells(book):
        block, _, rest = cell.address.partition(":")
        target = f"{site.trace(block)}#{rest}"
        linked = target in readers[site.INDEX].links()
        assert linked == (cell.state != "blank"), cell.address
        assert (rest in readers[site.trace(block)].ids) == linked
        if cell.state == "pending":
            assert cell.reason in section(pages, cell.address)
        if cell.state != "measured":
            continue
        text = section(pages, cell.address)
        for run in cell.runs:
            path = book.records._paths.record("downstream", run.id)
            tree = json.loads(path.read_text())
            assert f"{record.sha256(path)}  {path}\n" in text
            made = tree["outputs"]["predictions"]
            assert f"{made['sha256']}  {made['path']}" in text
            assert made["md5"] in text
        assert f" {cell.address}\n" in text  # the command
        assert COMMIT[:12] in text
        for parent in {p for run in cell.runs for p in grid.parents(book.params, *told(run))}:
            assert f'href="#{"/".join(parent)}"' in text


def told(run: grid.Run) -> tuple[str, str]:
    return "downstream", run.id


def test_a_page_tells_the_rest_of_the_chain_once(book, pages, lineage) -> None:
    for name in book.known:
        page = pages[site.trace(name)]
        runs = [run for c in cells(book) if c.table == name and c.values for run in c.runs]
        units = lineage.upstream(runs)
        assert {unit.kind for unit in units} >= {"shards", "manifest", "phantom"}
        for unit in units:
            assert page.count(f'id="{unit.kind}/{unit.id}"') == 1
            for text in (unit.sha256, unit.config_hash, unit.record):
                assert text in page
            for file in (*unit.inputs, *unit.outputs):
                assert file.sha256 in page
                assert file.path in page
        assert page.count("git show") == 1


def test_upstream_is_whole_and_in_order(book, lineage) -> None:
    runs = grid.runs(book.params)
    found = [(unit.kind, unit.id) for unit in lineage.upstream(runs)]
    wanted = {p for run in runs for p in grid.parents(book.params, *told(run))}
    while more := {p for u in wanted for p in grid.parents(book.params, *u)} - wanted:
        wanted |= more
    assert set(found) == wanted
    assert len(found) == len(wanted)
    kinds = [kind for kind, _ in found]
    assert list(dict.fromkeys(kinds)) == ["pretrain", "shards", "manifest", "phantom"]
    assert kinds == sorted(kinds, key=list(dict.fromkeys(kinds)).index)


def test_a_unit_is_what_its_record_says(book, lineage) -> None:
    unit = lineage.unit("shards", "chexpert")
    assert unit.outputs[0].sha256 == sha(unit.outputs[0].path)
    assert [file.path for file in unit.inputs] == ["raw:chexpert"]
    assert unit.made is not None
    assert unit.made.commit == COMMIT
    assert lineage.pointer(unit.outputs[0]) == "results/demo/artifacts/shards.dvc"
    assert lineage.pointer(unit.inputs[0]) == ""
    weights = lineage.unit("pretrain", "mgca-s0")
    assert traced.pull(lineage, [unit, weights]) == (
        "dvc pull results/demo/artifacts/shards/chexpert "
        "results/demo/artifacts/checkpoints/mgca-s0.safetensors"
    )


def test_parameters_are_compared_with_the_papers_scale(book, lineage) -> None:
    changes = {key: (here, there) for key, here, there in lineage.differing("pretrain", "mgca-s0")}
    small, large = (b.pretraining("mgca")[1] for b in (book.params, lineage._paper))
    assert changes["batch"] == (small.batch, large.batch)
    assert all(here != there for here, there in changes.values())


def test_a_chain_that_does_not_join_is_refused(tmp_path) -> None:
    with whole(tmp_path) as world:
        path = world.paths.record("manifest", "siim")
        path.write_text(path.read_text() + "\n")
        with pytest.raises(CheckError, match=r"shards/siim.json: parents.manifest/siim is not"):
            site.pages(Book(world.params))
        complete(world)
        path = world.paths.record("shards", "siim")
        tree = json.loads(path.read_text())
        del tree["outputs"]
        path.write_text(json.dumps(tree))
        with pytest.raises(CheckError, match=r"shards/siim.json: no chain .*outputs"):
            Lineage(world.params, Book(world.params).records).unit("shards", "siim")
        path.unlink()
        with pytest.raises(CheckError, match="no such record"):
            Lineage(world.params, Book(world.params).records).unit("shards", "siim")


def test_a_missing_drawing_is_named(world, book) -> None:
    path = world.paths.figure("medim_figure2", "svg")
    text = path.read_text()
    path.unlink()
    try:
        with pytest.raises(CheckError, match=r"medim_figure2.svg: not there; .*--part figures"):
            build.filled(book, build.gathered(book))
    finally:
        path.write_text(text)


def pair(row: str, other: str, difference: float, p: float) -> Comparison:
    low, high = difference - 0.01, difference + 0.03
    return Comparison("siim_10", row, other, "methods", difference, low, high, 0.01, 3, p, p)


@given(st.floats(-1, 1), st.floats(0, 1))
def test_a_lead_is_told_from_the_own_row(book, difference: float, p: float) -> None:
    table = book.table("medim_table1")
    there = leads.leads(book.params, table, [pair("medim", "mgca", difference, p)])
    back = leads.leads(book.params, table, [pair("mgca", "medim", difference, p)])
    (one,), (other,) = ([x for x in r.leads if x] for (r,) in (there.rivals, back.rivals))
    assert one.difference == pytest.approx(100 * difference)
    assert (one.low, one.high) == pytest.approx((100 * difference - 1, 100 * difference + 3))
    assert (other.difference, other.low, other.high) == (-one.difference, -one.high, -one.low)
    assert one.significant == (p < leads.LEVEL)
    if difference:
        assert ("higher" in one.verdict) == (one.significant and difference > 0)


def test_a_rival_is_summed_up_in_words(book) -> None:
    table = book.table("medim_table1")
    keys = [column.key for column in table.columns[:3]]
    made = [replace(pair("medim", "mgca", d, p), column=k) for k, d, p in zip(
        keys, (0.1, -0.1, 0.2), (0.5, 0.01, 0.04), strict=True)]  # fmt: skip
    (rival,) = leads.leads(book.params, table, made).rivals
    assert rival.summary == ("significantly higher in 1 and lower in 1 of 3 columns (higher in 2)")
    (rival,) = leads.leads(book.params, table, made[:1]).rivals
    assert rival.summary == "significant in none of 1 column (higher in 1)"


@pytest.mark.parametrize(
    ("p", "text"), [(0.5, "0.50"), (0.0049, "0.005"), (0.0005, "< 0.001"), (1.0, "1.00")]
)
def test_p_is_printed_short(p: float, text: str) -> None:
    assert leads.chance(p) == text


def test_signs_are_printed() -> None:
    assert [leads.signed(x) for x in (1.234, -1.234, -0.001)] == ["+1.23", "−1.23", "+0.00"]


def test_rules_on_real_tables_are_shown(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert public.rules() == []
    tree = {
        "dataset": "siim",
        "rule": "mgca",
        "how": "by row",
        "released": True,
        "sizes": {"train": 8578, "test": 3},
        "shared": {"images": {"train-test": 154}},
    }
    public.FILE.parent.mkdir(parents=True)
    public.FILE.write_text(json.dumps({"rules": [tree]}))
    (rule,) = public.rules()
    assert (rule.dataset, rule.sizes, rule.leaking) == ("SIIM", ("8,578", "–", "3"), ("images",))
    assert rule.shared == {"images": "– / 154 / –", "patients": "– / – / –"}
    public.FILE.write_text(json.dumps({"rules": [tree | {"sizes": 3}]}))
    with pytest.raises(CheckError, match=r"leakage.json: cannot be read"):
        public.rules()
