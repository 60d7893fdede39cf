"""MedIM under the paper's protocol and the released one: weights by row, tests by column."""

from cxrmim.report.layout import Layout, Measure

LAYOUT = Layout(
    title="MedIM, both protocols",
    caption="MedIM as the paper and as the released code have it, with 10% of the labels. Rows: "
    "how the weights were trained, on which split of MIMIC-CXR. Columns: how they were tested. The "
    "released tests use the released splits (COVIDx by image, SIIM by table row: both leak) and "
    "new views of the training images in every epoch of a probe; CheXpert's split is the same. "
    "Not from the released code: batch and patience of the probe, the MeSH list, and the GPU's "
    "share of negatives, BatchNorm and Sinkhorn, which is the whole batch in one process. CheXpert "
    "mAUC, COVIDx accuracy, SIIM Dice (x100). Columns of two splits have different test images.",
    measures=(Measure("{entry}_{percent}", "{name}", "{percent}%"),),
    datasets={
        "chexpert": "CheXpert",
        "covidx": "COVIDx",
        "siim": "SIIM",
        "chexpert-released": "CheXpert, released",
        "covidx-released": "COVIDx, released",
        "siim-released": "SIIM, released",
    },
    stub="Weights",
    names={"medim": "MedIM, paper", "medim-released": "MedIM, released"},
)
