"""MedIM Table 2: image-text retrieval."""

from cxrmim.report.layout import Layout, Measure

LAYOUT = Layout(
    title="MedIM Table 2",
    caption="Image-to-text (I2T) and text-to-image (T2I) retrieval on held-out MIMIC-CXR pairs: "
    "share of queries whose own pair is among the first k (R@k, x100).",
    measures=tuple(
        Measure(f"{side}_r{k}", side.upper(), f"R@{k}", f"{side}_r{k}")
        for side in ("t2i", "i2t")
        for k in (1, 5, 10)
    ),
)
