"""The site in headless Chromium, opened from disk: quiet, sortable, traceable, narrow and wide."""

import re
import shutil
from dataclasses import dataclass, field, replace

import pytest
from chained import whole
from tests.needs import PackageError, declined, install

from cxrmim.report import render, site
from cxrmim.report.book import Book
from cxrmim.report.site import build

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

NAMES = ("chromium", "chromium-browser", "google-chrome")
WIDTHS = (390, 1440)
ATTACK = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'>"
TABLE = "table.cells"


def chromium() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


@dataclass
class Heard:
    """What a page said and asked for."""

    lines: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A site on disk whose claims, ledger and slips hold an attack."""
    with whole(tmp_path_factory.mktemp("browser")) as world:
        book = Book(world.params)
        parts = build.gathered(book)
        parts = replace(
            parts,
            verdicts=[replace(v, says=ATTACK) for v in parts.verdicts],
            slips=[replace(s, found=ATTACK) for s in parts.slips],
            ledger=[replace(line, paper=f"`{ATTACK}`") for line in parts.ledger],
        )
        out = world.paths.report.resolve()
        for name, text in build.filled(book, parts).items():
            path = out / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        yield out


@pytest.fixture(scope="module")
def browser():
    if (found := chromium()) is None:
        try:
            install("chromium")
        except PackageError as error:
            declined(f"no Chromium on this machine: {error}")
        found = chromium()
    with playwright.sync_playwright() as driver:
        try:
            started = driver.chromium.launch(executable_path=found)
        except playwright.Error as error:
            declined(f"{found} does not start: {error.message.splitlines()[0]}")
        yield started
        started.close()


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
def page(browser, heard):
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    made = context.new_page()
    made.on("console", lambda message: heard.lines.append(message.text))
    made.on("pageerror", lambda error: heard.lines.append(str(error)))
    made.on("request", lambda request: heard.requests.append(request.url))
    yield made
    context.close()


def opened(page, folder, name: str = site.INDEX, fragment: str = ""):
    page.goto((folder / name).as_uri() + fragment)
    return page


def column(page, table: str, at: int) -> list[list[str]]:
    """Texts of a column, body by body, notes left out."""
    return page.locator(table).first.evaluate(
        """(table, at) => [...table.tBodies].map((body) => [...body.rows].map((row) => {
             const cell = row.cells[at].cloneNode(true);
             cell.querySelectorAll(".tip, small").forEach((part) => part.remove());
             return cell.textContent.trim();
           }))""",
        at,
    )


def test_every_page_is_quiet_local_and_fits(page, heard, folder) -> None:
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.html"))]
    assert len(names) > 5
    for name in names:
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            opened(page, folder, name)
            page.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, f"{name} is {wide} px wide in a window of {width}"
            assert page.locator(".banner").inner_text().startswith("PHANTOM DATA")
    assert heard.lines == []
    assert heard.requests
    assert all(url.startswith(folder.as_uri() + "/") for url in heard.requests)
    assert any(url.endswith(".svg") for url in heard.requests)
    assert any(url.endswith(site.STYLE) for url in heard.requests)


def test_the_policy_stops_what_is_not_ours(page, heard, folder) -> None:
    opened(page, folder)
    page.evaluate(
        """() => {
             const script = document.createElement("script");
             script.textContent = "window.hacked = 3";
             document.body.append(script);
             const image = document.createElement("img");
             image.src = "http://127.0.0.1:9/x.png";
             document.body.append(image);
           }"""
    )
    page.wait_for_timeout(100)
    assert page.evaluate("window.hacked") is None
    assert len([line for line in heard.lines if "Content Security Policy" in line]) == 2


def test_hostile_text_is_shown_and_not_run(page, folder) -> None:
    opened(page, folder)
    page.wait_for_timeout(100)
    assert page.evaluate("window.hacked") is None
    assert page.locator("img[src='x']").count() == 0
    assert ATTACK in page.locator("#claims ~ .wide").first.inner_text()
    assert "<script>alert(1)</script>" in page.locator(".report").first.inner_text()


def test_a_heading_sorts_numbers_with_pending_last(page, folder) -> None:
    opened(page, folder)
    heads = page.locator(TABLE).first.locator("thead tr:last-child th")
    before = column(page, TABLE, 0)
    for order, reverse in (("descending", True), ("ascending", False)):
        heads.nth(1).get_by_role("button").click()
        assert heads.nth(1).get_attribute("aria-sort") == order
        for texts in column(page, TABLE, 1):
            numbers = [float(t.rstrip(render.BELOW)) for t in texts if t not in ("", "pending")]
            assert numbers == sorted(numbers, reverse=reverse)
            assert all(text in ("", "pending") for text in texts[len(numbers) :])
    texts = [text for body in column(page, TABLE, 1) for text in body]
    assert "pending" in texts
    assert "" in texts
    heads.nth(0).get_by_role("button").click()
    assert heads.nth(1).get_attribute("aria-sort") is None
    assert heads.nth(0).get_attribute("aria-sort") == "ascending"
    after = column(page, TABLE, 0)
    assert [sorted(body) for body in after] == [sorted(body) for body in before]
    assert all(body == sorted(body, key=str.casefold) for body in after)
    assert "Sorted by Methods" in page.locator("#said").inner_text()


def test_a_note_appears_by_pointer_and_by_keyboard(page, folder) -> None:
    opened(page, folder)
    link = page.locator("td[id='medim_table1:mgca:chexpert_10'] a")
    note = page.locator("[id='about:medim_table1:mgca:chexpert_10']")
    assert not note.is_visible()
    link.hover()
    assert note.is_visible()
    page.keyboard.press("Escape")
    assert not note.is_visible()
    page.mouse.move(0, 0)
    link.focus()
    assert note.is_visible()
    assert "95% interval over test images" in note.inner_text()
    assert re.search(r"seeds 0, 1, 2: (\d\d\.\d\d(, |; )){3}", note.inner_text())
    box, spot = note.bounding_box(), link.bounding_box()
    assert abs(box["y"] - spot["y"]) < 120
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 1440


def test_a_cell_opens_its_trace_and_leads_back(page, folder) -> None:
    address = "medim_table1:mgca:chexpert_10"
    opened(page, folder)
    page.locator(f"td[id='{address}'] a").click()
    assert page.url.endswith("trace/medim_table1.html#mgca:chexpert_10")
    section = page.locator("section:target")
    section.wait_for()
    assert section.bounding_box()["y"] >= page.locator(".banner").bounding_box()["height"] - 1
    assert "results/demo/records/downstream/mgca-s0/" in section.inner_text()
    assert f"cxrmim trace --scale demo {address}" in section.inner_text()
    section.get_by_role("link", name="pretrain/mgca-s0").click()
    assert page.locator("section:target h3").inner_text() == "pretrain/mgca-s0"
    page.go_back()
    page.locator("section:target").get_by_role("link", name="Back to the table").click()
    assert page.url.endswith(f"index.html#{address}")


def test_a_command_is_copied(page, folder) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    opened(page, folder, "trace/medim_table1.html", "#mgca:chexpert_10")
    button = page.locator("section:target .command button").last
    button.click()
    page.wait_for_function("document.getElementById('said').textContent !== ''")
    assert button.inner_text() == "Copied"
    text = page.evaluate("navigator.clipboard.readText()")
    assert text.splitlines() == [
        "cxrmim trace --scale demo medim_table1:mgca:chexpert_10",
        "dvc pull results/demo/artifacts/predictions/mgca-s0",
    ]


def test_the_keyboard_alone_goes_from_the_top_to_a_trace(page, folder) -> None:
    opened(page, folder)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    assert page.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    page.keyboard.press("Enter")
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('thead') !== null"):
            page.keyboard.press("Enter")
            assert page.evaluate("document.activeElement.closest('th').ariaSort") == "ascending"
            break
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.closest('td') !== null"):
            break
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    page.keyboard.press("Enter")
    page.wait_for_url("**/trace/*.html#*")


def test_a_link_into_a_folded_table_opens_it(page, folder) -> None:
    opened(page, folder, site.INDEX, "#cmitm_figure2:cmitm:rsna")
    assert page.locator("td[id='cmitm_figure2:cmitm:rsna']").is_visible()


def test_without_script_all_is_there_but_the_buttons(browser, folder) -> None:
    context = browser.new_context(java_script_enabled=False, viewport={"width": 390, "height": 800})
    page = opened(context.new_page(), folder)
    assert page.locator("th button, .command button").count() == 0
    link = page.locator("td[id='medim_table1:mgca:chexpert_10'] a")
    note = page.locator("[id='about:medim_table1:mgca:chexpert_10']")
    link.focus()
    assert note.is_visible()
    link.click()
    assert page.locator("section:target").inner_text().startswith("MGCA")
    context.close()


def test_contrast_is_enough(page, folder) -> None:
    """Every text against the nearest background that is painted, 4.5 at least (WCAG 2.1, AA)."""
    for name in (site.INDEX, "trace/medim_table1.html"):
        opened(page, folder, name, "#mgca:chexpert_10")
        poor = page.evaluate(
            """() => {
                 const part = (c) => { c /= 255;
                   return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4; };
                 const light = (text) => { const [r, g, b] = text.match(/[\\d.]+/g).map(Number);
                   return 0.2126 * part(r) + 0.7152 * part(g) + 0.0722 * part(b); };
                 const painted = (e) => { for (; e; e = e.parentElement) {
                   const c = getComputedStyle(e).backgroundColor;
                   if (!/^rgba.*, 0\\)$/.test(c)) return c; } return "rgb(255, 255, 255)"; };
                 const poor = new Set();
                 for (const e of document.body.querySelectorAll("*")) {
                   if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())) continue;
                   const [a, b] = [getComputedStyle(e).color, painted(e)];
                   const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
                   if ((x + 0.05) / (y + 0.05) < 4.5) poor.add(`${e.tagName} ${a} on ${b}`);
                 }
                 return [...poor]; }"""
        )
        assert poor == [], name
