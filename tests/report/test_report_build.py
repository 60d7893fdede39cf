"""Files of the report: bytes, banners, escapes, contents."""

import base64
import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from chained import complete
from fabricated import attend_details

from cxrmim import cli
from cxrmim.errors import CheckError
from cxrmim.report import __main__ as command
from cxrmim.report import build, render
from cxrmim.report.outputs import PARTS, blocks, outputs

SCALES = ["demo", "trend"]
REAL = {"scales": {"demo": {"manifest": {"source": "real"}}}}
HOSTILE = "50% of A_B & <b>$x$</b> #1 {y} ~ ^ \\end"


def run_all(world) -> dict[Path, bytes]:
    params = world.params
    complete(world)
    build.build_tables(params)
    build.build_figures(params)
    build.build_page(params)
    return {path: path.read_bytes() for part in outputs(params).values() for path in part}


@pytest.mark.parametrize("scale", SCALES)
def test_outputs_are_complete_and_byte_identical_on_rebuild(make, scale) -> None:
    world = make(scale)
    first = run_all(world)
    folders = [world.paths.results / name for name in ("tables", "figures", "report")]
    assert {p for folder in folders for p in folder.rglob("*") if p.is_file()} == set(first)
    assert run_all(world) == first
    assert all(c.endswith(b"\n") for p, c in first.items() if p.suffix not in (".png", ".svg"))


def test_bytes_do_not_depend_on_the_process(make) -> None:
    world = make()
    first = run_all(world)
    code = (
        "import sys, os; sys.path.insert(0, sys.argv[1]); import fabricated;"
        "from cxrmim import grid, params; grid.pending = fabricated.pending;"
        "from cxrmim.report import build; p = params.load();"
        "build.build_tables(p); build.build_figures(p); build.build_page(p)"
    )
    Path("matplotlibrc").write_text("axes.grid: True\nlines.linewidth: 9\n")
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, Path(__file__).parent], check=True)
    assert {path: path.read_bytes() for path in first} == first


def test_banner_is_there_if_and_only_if_phantom(make) -> None:
    for over, phantom in (({}, True), (REAL, False)):
        world = make(over=over)
        for path, content in run_all(world).items():
            if path.suffix in (".md", ".tex", ".html"):
                assert (b"PHANTOM DATA" in content) == phantom, path
                assert (b"Real data" in content) != phantom, path
            if path.suffix == ".svg":  # matplotlib names each text it draws in a comment
                assert (b"<!-- PHANTOM DATA" in content) == phantom, path


STAND_IN = "ImageNet (stand-in: generated shapes)"


def test_a_stand_in_is_named_wherever_its_row_is_printed(make) -> None:
    rows = {"medim_figure3_left": {"rows": ["imagenet", "medim"]}}
    world = make(over={"grid": rows})
    run_all(world)
    printed = {"medim_table1": STAND_IN, "cmitm_table1": STAND_IN.replace("Net ", "Net init ")}
    for name, text in printed.items():
        assert f"| {text} |" in world.paths.table(name, "md").read_text()
        assert f"{text} &" in world.paths.table(name, "tex").read_text()
        with world.paths.table(name, "csv").open(newline="") as handle:
            said = {
                (line["row"] == "imagenet", line["stand_in"]) for line in csv.DictReader(handle)
            }
        assert said == {(True, "generated shapes"), (False, "")}
    page = (world.paths.report / "index.html").read_text()
    for text in printed.values():
        assert f'scope="row">{text}</th>' in page
    drawn = world.paths.figure("medim_figure3_left", "svg").read_text()
    comments = re.findall(r"<!-- (.*?) -->", drawn)  # matplotlib names each line it draws
    assert "ImageNet (stand- in: generated shapes)" in " ".join(comments)


def test_commands_name_a_stand_in(make, capsys) -> None:
    make()
    assert cli.main(["grid"]) == 0
    line = next(x for x in capsys.readouterr().out.splitlines() if x.split()[:1] == ["imagenet"])
    assert line.endswith("(stand-in: generated shapes)")
    cli.main(["trace", "medim_table1:imagenet:chexpert_10"])
    assert capsys.readouterr().out.splitlines()[0] == f"row {STAND_IN}"
    cli.main(["trace", "medim_table1:mae:chexpert_10"])
    assert "stand-in" not in capsys.readouterr().out


def test_real_weights_have_no_mark(make) -> None:
    none = {"stand_in": None}
    world = make(over={"scales": {"demo": {"pretrain": {"methods": {"imagenet": none}}}}})
    assert not any(
        b"stand-in" in content for p, content in run_all(world).items() if p.suffix != ".csv"
    )


def test_real_pairs_are_never_drawn(make) -> None:
    world = make(over=REAL)
    complete(world)
    build.build_figures(world.params)
    build.build_page(world.params)
    assert world.paths.figure("medim_figure2", "csv").read_text().count("\n") == 1
    assert "credentialed" in world.paths.figure("medim_figure2", "svg").read_text()
    assert "effusion" not in (world.paths.report / "index.html").read_text()


def test_csv_is_tidy_and_agrees_with_summary(make) -> None:
    world = make()
    build.build_tables(world.params)
    summary = json.loads(world.paths.summary.read_text())["cells"]
    seen = 0
    for name in blocks(world.params, "table"):
        with world.paths.table(name, "csv").open(newline="") as handle:
            lines = list(csv.DictReader(handle))
        assert tuple(lines[0]) == render.HEADER
        for line in lines:
            address = f"{line['table']}:{line['row']}:{line['column']}"
            assert (address in summary) == (line["state"] == "measured")
            assert bool(line["reason"]) == (line["state"] == "pending")
            if address in summary:
                seen += 1
                assert line["ours_mean"] == f"{100 * summary[address]['value']:.2f}"
                assert summary[address]["n"] == int(line["n"])
                assert ("sd" in summary[address]) == bool(line["ours_sd"])
    assert seen == len(summary)
    for leaf in summary.values():
        assert all(isinstance(value, int | float) for value in leaf.values())


def test_edited_metric_changes_table_and_summary(make) -> None:
    world = make()
    first = run_all(world)
    run = world.cell_runs("medim_table1", "mgca", "chexpert", 10)[0]
    world.write(run, {"value": 0.123})
    changed = {p.name for p, content in run_all(world).items() if content != first[p]}
    assert {"medim_table1.csv", "medim_table1.md", "medim_table1.tex", "summary.json"} <= changed
    assert "index.html" in changed
    assert "cmitm_table1.csv" not in changed


def test_latex_escapes_every_special_character() -> None:
    text = render.latex(HOSTILE)
    assert text.startswith(r"50\% of A\_B \& \textless{}b\textgreater{}\$x\$")
    assert text.endswith(r"\#1 \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{}end")


def test_latex_tables_are_regular(make) -> None:
    world = make()
    build.build_tables(world.params)
    for name in blocks(world.params, "table"):
        text = world.paths.table(name, "tex").read_text()
        width = len(re.search(r"\\begin{tabular}{(\w+)}", text)[1])
        body = text.split(r"\midrule", 1)[1]
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert rows and all(len(re.split(r"(?<!\\)&", row)) == width for row in rows)
        assert not re.search(r"(?<!\\)[%_#]", text.split("\n", 1)[1].replace(f"tab:{name}", ""))


def test_markdown_rows_have_one_width(make) -> None:
    world = make()
    build.build_tables(world.params)
    for name in blocks(world.params, "table"):
        text = world.paths.table(name, "md").read_text()
        widths = {len(re.split(r"(?<!\\)\|", x)) for x in text.splitlines() if x.startswith("|")}
        assert len(widths) == 1
        assert "pending" in text or name == "medim_table2"


def test_figure_csv_holds_what_is_drawn(make) -> None:
    world = make()
    build.build_figures(world.params)
    with world.paths.figure("medim_figure2", "csv").open(newline="") as handle:
        lines = list(csv.DictReader(handle))
    assert len(lines) == 3 * 2 * 36
    assert {line["masked"] for line in lines} == {"0", "1"}
    with world.paths.figure("medim_figure3_left", "csv").open(newline="") as handle:
        states = {(x["row"], x["column"]): x["state"] for x in csv.DictReader(handle)}
    assert states["medim-none", "siim"] == "measured"
    assert states["medim-none", "covidx"] == "pending"


def test_broken_pairs_are_an_error(make) -> None:
    world = make()
    (run,) = world.cell_runs("medim_figure2", "medim", "mimic", 100)
    world.write(run, {"value": 0.5}, details={"grid": 6, "side": 96, "pairs": [{"words": []}]})
    with pytest.raises(CheckError, match=r"details.pairs cannot be read"):
        build.build_figures(world.params)


def test_outputs_need_no_heavy_import() -> None:
    code = (
        "import sys; from cxrmim.report import outputs, cells, layout, render;"
        "from cxrmim import plugins;"
        "[plugins.load('figure', n) for n in plugins.names('figure')];"
        "print([m for m in ('pandas', 'matplotlib', 'numpy', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("part", PARTS)
def test_command_builds_a_part(make, part) -> None:
    world = make()
    if part == "page":  # which shows the figures' drawings
        complete(world)
        build.build_figures(world.params)
    assert command.main(["--part", part]) == 0
    assert all(path.is_file() for path in outputs(world.params)[part])


def test_command_names_an_unknown_part(make, capsys) -> None:
    make(fill=False)
    assert command.main(["--part", "table"]) == 2
    assert "did you mean tables" in capsys.readouterr().err


def test_pairs_are_read_as_the_task_keeps_them(make) -> None:
    pd = pytest.importorskip("pandas")
    attend = pytest.importorskip("cxrmim.downstream.tasks.attend")
    details = attend_details()
    table = pd.DataFrame(details["pairs"]).assign(image="i", patient="p", source_row=0)
    table["pixels"] = [base64.b64decode(text) for text in table["pixels"]]
    assert attend.shown(table) == details["pairs"]
