"""The ledger, params.yaml, docs/switches.md and the tests name the same switches.

The ledger (src/cxrmim/report/ledger.yaml) types every value again by hand, so that params.yaml
cannot drift from it; what each of its promises is worth is shown on copies that break it. Tasks are
in test_switches_downstream.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
import torch
import yaml

from cxrmim import params as params_module
from cxrmim import plugins
from cxrmim.errors import ParamsError
from cxrmim.params import Params
from cxrmim.pretrain import weights
from cxrmim.pretrain.contract import Stored
from cxrmim.pretrain.parts.encoders import build_vit
from cxrmim.pretrain.schedule import build_optimiser
from cxrmim.report import switches

TOP = set(Params.model_fields)  # first words of a switch's name
M = "pretrain.methods."
PROTOCOLS = Path(__file__).parents[2] / "shared" / "protocols.md"
COMMAND = "python -m cxrmim.report.switches"


@pytest.fixture(scope="session")
def ledger() -> switches.Ledger:
    return switches.load()


def stated(ledger: switches.Ledger) -> dict[str, switches.Switch]:
    """Every switch of the ledger by its key."""
    return {s.key: s for entries in ledger.values() for e in entries for s in e.switches}


def lines(repo) -> list[str]:
    """Rows of the tables of docs/switches.md."""
    text = (repo / "docs/switches.md").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.startswith("| ") and "`" in line]


def test_the_ledger_keeps_what_it_promises(ledger, paper, repo):
    """Switches and both sides' values, tests that name them, headings, cells, public figures."""
    assert switches.faults(ledger, paper, repo) == []


def test_the_docs_are_made_of_the_ledger(ledger, repo):
    text = (repo / switches.DOCS).read_text(encoding="utf-8")
    assert text == switches.to_docs(ledger), f"docs/switches.md is stale: run `{COMMAND}`"


def test_the_command_writes_the_docs(ledger, repo, tmp_path, monkeypatch):
    for name in ("params.yaml", "tests", "results", "docs/data.md", "docs/methods.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).symlink_to(repo / name)
    for name in ("docs/downstream.md", "docs/weights.md"):
        (tmp_path / name).symlink_to(repo / name)
    monkeypatch.chdir(tmp_path)
    assert switches.main() == 0
    assert (tmp_path / switches.DOCS).read_text(encoding="utf-8") == switches.to_docs(ledger)


def test_every_row_of_the_literature_sheet_is_in_the_ledger(ledger):
    if not PROTOCOLS.is_file():
        pytest.skip(f"{PROTOCOLS} is not there: the topics were not compared with it")
    section = PROTOCOLS.read_text(encoding="utf-8").split("\n## 4 ")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    topics = [row.split(" | ")[0].removeprefix("| ") for row in rows]
    assert len(topics) == len(set(topics)) > 70
    covered = {name for entries in ledger.values() for e in entries for name in e.sheet}
    assert covered == set(topics)


def test_what_differs_by_side_is_what_the_sheet_or_the_ledger_says(ledger):
    """An entry whose two sides differ says what the code does; one of the sheet says something."""
    for entries in ledger.values():
        for entry in entries:
            if any(len({repr(side) for side in s.sides}) > 1 for s in entry.switches):
                assert entry.code != switches.SILENT, entry.topic
                assert "released" in entry.other, entry.topic
            if entry.sheet:
                assert {entry.paper, entry.code} != {switches.SILENT}, entry.topic


# What breaks a promise -> the fault that names it.


def edited(ledger: switches.Ledger, topic: str, **over: Any) -> switches.Ledger:
    """The ledger with some fields of one entry replaced."""
    return {
        group: [e.model_copy(update=over) if e.topic == topic else e for e in entries]
        for group, entries in ledger.items()
    }


def entry(ledger: switches.Ledger, topic: str) -> switches.Entry:
    return next(e for entries in ledger.values() for e in entries if e.topic == topic)


def test_a_default_that_drifted_is_caught(ledger, tree, write_params, repo):
    tree["pretrain"]["methods"]["medim"]["options"]["alpha"] = 7.0
    loaded = params_module.load(write_params(tree), "paper")
    key = "restoration weight: pretrain.methods.medim.options.alpha"
    assert switches.faults(ledger, loaded, repo) == [
        f"{key} is 7.0 under protocol paper, the ledger says 10.0"
    ]


def test_a_released_side_that_drifted_is_caught(ledger, tree, write_params, repo):
    tree["released"]["pretrain"]["negatives"] = "batch"
    loaded = params_module.load(write_params(tree), "paper")
    assert switches.faults(ledger, loaded, repo) == [
        "negatives, BatchNorm: pretrain.negatives is 'batch' under protocol released, "
        "the ledger says 'shard'"
    ]


def test_a_switch_that_params_lacks_is_caught(ledger, tree, write_params, repo):
    del tree["pretrain"]["entries"]["medim-low"]
    tree["grid"]["medim_figure3_left"]["rows"].remove("medim-low")
    loaded = params_module.load(write_params(tree), "paper")
    assert switches.faults(ledger, loaded, repo) == [
        "mask rule: params.yaml has no pretrain.entries.medim-low.set.options.mask_mode",
        "mask rule: the grid has no medim_figure3_left:medim-low",
    ]


@pytest.fixture
def copied(repo, tmp_path) -> Path:
    """Tests, docs and public figures in a folder where they can be spoilt."""
    for name in ("tests", "docs", "results/public"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(repo / name, tmp_path / "copy" / name, ignore=ignored)
    return tmp_path / "copy"


def spoil(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_a_test_that_was_renamed_is_caught(ledger, paper, copied):
    file = "tests/pretrain/test_pretrain_alignment.py"
    spoil(copied / file, "def test_a_learned_mask_token", "def test_the_learned_mask_token")
    name = "test_a_learned_mask_token_fills_masked_places"
    assert switches.faults(ledger, paper, copied) == [f"[MASK] of MedIM: no test {file}::{name}"]


def test_a_file_of_tests_that_went_away_is_caught(ledger, paper, copied):
    (copied / "tests/downstream/test_downstream_metrics.py").unlink()
    (found,) = switches.faults(ledger, paper, copied)
    assert "Dice of an empty mask: no test tests/downstream/test_downstream_metrics.py" in found


def test_a_test_that_no_longer_names_its_switch_is_caught(ledger, paper, copied):
    file = "tests/downstream/test_downstream_segment.py"
    spoil(copied / file, "decoder_init", "dec")
    found = [f"segmentation decoder: {file} never names decoder_init"]
    assert switches.faults(ledger, paper, copied) == found


def test_a_dead_heading_is_caught(ledger, paper, copied):
    spoil(copied / "docs/weights.md", "## Official checkpoints", "## Their checkpoints")
    (found,) = switches.faults(ledger, paper, copied)
    assert found.endswith("no heading docs/weights.md#official-checkpoints-as-extra-rows")


def test_a_public_figure_that_is_not_there_is_caught(ledger, paper, copied):
    spoil(copied / "results/public/leakage.json", '"empty_prediction_dice"', '"empty_dice"')
    found = switches.faults(ledger, paper, copied)
    assert len(found) == 2
    assert all("empty_prediction_dice" in fault for fault in found)


def test_two_homes_of_a_switch_are_caught(ledger, paper, repo):
    twice = [*entry(ledger, "warm-up").switches, *entry(ledger, "restoration weight").switches]
    found = switches.faults(edited(ledger, "warm-up", switches=twice), paper, repo)
    assert "warm-up: tests/pretrain/test_pretrain_flips.py never names alpha" in found
    alpha = "pretrain.methods.medim.options.alpha"
    assert f"warm-up: {alpha} is also a switch of restoration weight" in found


@pytest.mark.parametrize(
    ("over", "fault"),
    [
        ({"other": "cmitm_table2:cmitm-none"}, "the grid has no cmitm_table2:cmitm-none"),
        ({"ours": "cmitm_table9:cmitm"}, "the grid has no cmitm_table9:cmitm"),
        ({"ours": "cmitm_table2:cmitm:nih"}, "cmitm_table2:cmitm has no column nih"),
        ({"columns": ["siim"]}, "cmitm_table2:cmitm has no column siim"),
        ({"kind": "published", "columns": ["nih"]}, "cmitm_table2:cmitm has no column nih"),
    ],
)
def test_a_cell_that_no_grid_has_is_caught(ledger, paper, repo, over, fault):
    topic = "-representation decoder"
    (item,) = entry(ledger, topic).measured
    changed = edited(ledger, topic, measured=[item.model_copy(update=over)])
    assert f"{topic}: {fault}" in switches.faults(changed, paper, repo)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("topic: warm-up", "topic: warm-up\n    defualt: x", "warm-up: defualt: Extra inputs"),
        ("kind: public", "kind: private", "kind"),
        ("docs/downstream.md#probe", "probe", "probe feature: docs: String should match"),
        ("::test_split_switch]", "]", "MIMIC split: switches.0.tests.0: String should match"),
        ('"{alpha} on', '"{beta} on', "restoration weight: '{beta} on"),
        ("code: 40 %", "code: 40 #", "warm-up: code: Input should be a valid string"),
        ("Pretraining:\n", "Pretraining: ]\n", "not valid YAML"),
    ],
)
def test_a_ledger_that_cannot_be_read_is_one_line_that_names_the_topic(tmp_path, old, new, said):
    path = tmp_path / "ledger.yaml"
    path.write_text(switches.HOME.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
    with pytest.raises(ParamsError, match=re.escape(said)) as error:
        switches.to_docs(switches.load(path))
    assert "\n" not in str(error.value)


def test_no_key_is_written_twice_in_an_entry():
    """YAML would silently keep the last one."""
    text = switches.HOME.read_text(encoding="utf-8")
    node = yaml.compose(text)
    pending = [node]
    while pending:
        one = pending.pop()
        if isinstance(one, yaml.MappingNode):
            keys = [key.value for key, _ in one.value if key.tag != "tag:yaml.org,2002:merge"]
            assert len(keys) == len(set(keys)), one.start_mark
            pending += [value for _, value in one.value]
        elif isinstance(one, yaml.SequenceNode):
            pending += one.value


# What `protocol: released` changes is in the ledger, and all of it.


def leaves(tree: Any, key: str) -> dict[str, Any]:
    if not isinstance(tree, dict):
        return {key: tree}
    return {k: v for name, t in tree.items() for k, v in leaves(t, f"{key}.{name}").items()}


def settings(params: Params) -> dict[str, Any]:
    """Every setting by key, methods as they are resolved; entries stand in a test of their own."""
    tree = params.model_dump(
        mode="json", exclude={"grid": True, "pretrain": {"methods", "entries"}}
    )
    found = {k: v for name, t in tree.items() for k, v in leaves(t, name).items()}
    for method in params.pretrain.methods:
        found |= leaves(params.pretraining(method)[1].model_dump(mode="json"), M + method)
    return found


def owner(params: Params, key: str) -> str:
    """The key of the method that states a setting, for one that is inherited."""
    if not key.startswith(M):
        return key
    method, rest = key.removeprefix(M).split(".", 1)
    block = params.pretrain.methods[method]
    while block.get("base") and rest not in {k.partition(".")[2] for k in leaves(block, "x")}:
        method = block["base"]
        block = params.pretrain.methods[method]
    return f"{M}{method}.{rest}"


def test_released_changes_nothing_beyond_the_ledger(ledger, paper, released):
    one, two = settings(paper), settings(released)
    differ = {owner(released, key) for key in two if one.get(key) != two[key]}
    assert differ == {k for k, s in stated(ledger).items() if s.sides[0] != s.sides[1]}


def test_released_changes_no_entry_beyond_its_method(ledger, paper, released):
    """Variants take their method's switches; what no code was released for keeps its budget."""
    ours = {"cmitm-s1", "cmitm-joint"}
    options = {".options.positions", ".options.mask_unit"}
    sides = {k: s.sides for k, s in stated(ledger).items()}
    for name in paper.pretrain.entries:
        one, two = (leaves(p.pretraining(name)[1].model_dump(), "") for p in (paper, released))
        differ = {k for k in two if one.get(k) != two[k]}
        method = paper.pretraining(name)[0]
        keys = [M + method + k for k in two]
        named = {
            k.removeprefix(M + method)
            for k in keys
            if len({repr(side) for side in sides.get(owner(released, k), ())}) > 1
        }
        assert differ <= (options if name in ours else named), name


# The docs name switches that exist, and every choice of a reader or a method by its name.


def test_every_switch_named_in_the_docs_exists(repo, paper):
    values, found = switches.Values(paper), 0
    for line in lines(repo):
        for cell in line.split("|")[2:]:
            for name in re.findall(r"`([a-z_]+(?:\.[a-z0-9_-]+)+)`", cell):
                if name.split(".")[0] in TOP:
                    values[name]  # KeyError: no such switch
                    found += 1
    assert found > 90  # names in all


def choices(kind: Any) -> list[str]:
    """Names that a field offers, of a `Literal` or of one among other kinds."""
    if get_origin(kind) is None:
        return []
    inner = [choice for part in get_args(kind) for choice in choices(part)]
    return inner or [part for part in get_args(kind) if isinstance(part, str)]


@pytest.mark.parametrize("dataset", plugins.names("dataset"))
def test_every_choice_of_a_reader_is_in_the_docs(ledger, repo, dataset):
    """Options that name alternatives, and every alternative by its name."""
    model = plugins.options("dataset", dataset)
    assert model is not None
    text = "\n".join(line for line in lines(repo) if f"datasets.{dataset}." in line)
    seen = 0
    for name, field in model.model_fields.items():
        if len(choices(field.annotation)) < 2:
            continue
        assert f"manifest.datasets.{dataset}.{name}" in stated(ledger), f"{dataset}.{name}"
        for kind in choices(field.annotation):
            assert f"`{kind}`" in text or f"`{name}: {kind}`" in text, f"{dataset}.{name}: {kind}"
        seen += 1
    assert seen


@pytest.mark.parametrize("method", plugins.names("method"))
def test_every_choice_of_a_method_is_a_switch_of_the_ledger(ledger, paper, repo, method):
    """Its own, or that of the method it is built on; every alternative is named in the docs."""
    model = plugins.options("method", method)
    if model is None or method not in paper.pretrain.methods:
        pytest.skip(f"{method} has no options in params.yaml")
    for name, field in model.model_fields.items():
        if len(choices(field.annotation)) < 2:
            continue
        key = owner(paper, f"{M}{method}.options.{name}")
        switch = stated(ledger).get(key)
        assert switch is not None, key
        topic = next(e for es in ledger.values() for e in es if switch in e.switches).topic
        (line,) = (each for each in lines(repo) if each.startswith(f"| {topic} |"))
        for kind in choices(field.annotation):
            assert f"`{kind}`" in line, f"{key}: {kind}"


# Switches that have no better place to be flipped.


def test_the_three_weights_of_mgca(tree, write_params):
    for name in ("weight_ita", "weight_local", "weight_proto"):
        options = tree["scales"]["demo"]["pretrain"]["methods"]["mgca"]["options"]
        options[name] = 0.25
        method = weights.build_method(
            params_module.load(write_params(tree), "demo"), "medim", Stored(vocab=40, length=24)
        )
        losses = dict.fromkeys(method.weights, torch.ones(()))
        losses[name.removeprefix("weight_")] = torch.full((), 5.0)
        assert float(method.total(losses)) == sum(method.weights.values()) + 4 * 0.25
        del options[name]


def test_betas_reach_the_optimiser(paper):
    optim = paper.pretraining("medim")[1].optim
    built = build_optimiser(torch.nn.Linear(2, 2), optim)
    assert {group["betas"] for group in built.param_groups} == {(0.9, 0.999)}
    built = build_optimiser(torch.nn.Linear(2, 2), optim.model_copy(update={"betas": (0.8, 0.9)}))
    assert {group["betas"] for group in built.param_groups} == {(0.8, 0.9)}


def test_an_untrained_vit_is_drawn_as_init_says(demo):
    """normal: deviation 0.02 at any width; xavier: uniform within sqrt(6 / (in + out))."""
    narrow = demo.pretrain.vit.model_copy(update={"depth": 1})
    for init, wanted in (("normal", 0.02), ("xavier", (2 / (64 + 256)) ** 0.5)):
        encoder = build_vit(narrow.model_copy(update={"init": init}), 32)
        drawn = encoder.blocks[0].mlp.fc1.weight.detach()
        assert drawn.shape == (256, 64)
        assert float(drawn.std()) == pytest.approx(wanted, rel=0.05)
