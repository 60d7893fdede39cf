"""Plug-ins by file name."""

from __future__ import annotations

import pytest

from cxrmim import plugins

ALL = [(kind, name) for kind in plugins.FOLDERS for name in plugins.names(kind)]


@pytest.mark.parametrize(("kind", "name"), ALL)
def test_options_read_from_the_source_equal_the_imported_ones(kind, name):
    module = plugins.load(kind, name)
    read = plugins.options(kind, name)
    imported = getattr(module, "Options", None)
    if imported is None:
        assert read is None
    else:
        assert read is not None
        assert read.model_json_schema() == imported.model_json_schema()


@pytest.mark.parametrize("name", ["nosuch", "../errors", "_x", "a.b", ""])
def test_a_name_without_a_file_has_no_source(name):
    assert plugins.source("method", name) is None
    assert plugins.options("method", name) is None
