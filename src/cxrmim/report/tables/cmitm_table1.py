"""CMITM Table 1: fine-tuning of all methods."""

from cxrmim.report.layout import Layout

LAYOUT = Layout(
    title="CMITM Table 1",
    caption="Comparison of different pre-training methods on four chest X-ray datasets when "
    "fine-tuning with 1%, 10% and 100% of the training data (AUC or accuracy, x100).",
    datasets={
        "nih": "NIH X-ray (AUC)",
        "chexpert": "CheXpert (AUC)",
        "rsna": "RSNA (AUC)",
        "covidx": "COVIDx (ACC)",
    },
    decimals=1,
)
