"""Figures of credentialed images for the user's own eyes, where neither git nor DVC keeps them."""

from cxrmim import plugins
from cxrmim.errors import ParamsError
from cxrmim.params import Params
from cxrmim.paths import Paths, atomic
from cxrmim.report import outputs
from cxrmim.report.book import Book

BANNER = "NOT TO BE SHARED: radiographs and reports of patients"


def build(params: Params) -> None:
    """Draw the figures that records of credentialed data withhold, from the artifacts on disk.

    They go into ``results/<scale>/local``.

    Raises:
        ParamsError: ``report.site_images`` does not allow it.
        CheckError: an artifact is not on this machine, or not the one of its record.
    """
    from cxrmim.report import charts, render

    if not params.report.site_images:
        raise ParamsError(
            "params.yaml: report.site_images = false: set it to true to draw images of patients "
            f"into {Paths(params.scale).local}, which git and DVC leave alone"
        )
    paths, book = Paths(params.scale), Book(params)
    said = render.banner(params) if params.manifest.source == "phantom" else BANNER
    for name in outputs.figures(params):
        module = plugins.load("figure", name)
        if not hasattr(module, "draw_local"):
            continue
        with charts.style(params):
            drawn = module.draw_local(book)
            charts.label(drawn, said)
            for suffix in ("svg", "png"):
                with atomic(paths.local / f"{name}.{suffix}") as temporary:
                    charts.save(drawn, temporary)
