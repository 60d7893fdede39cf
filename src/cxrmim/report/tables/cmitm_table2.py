"""CMITM Table 2: ablation of the cascade, image masking and the representation decoder."""

from cxrmim.report.layout import Layout, Measure

LAYOUT = Layout(
    title="CMITM Table 2",
    caption="Ablation on removing either design, fine-tuned with 1% of the training data: RSNA "
    "AUC, COVIDx accuracy (x100).",
    measures=(Measure("{dataset}", "", "{name}"),),
    decimals=1,
)
