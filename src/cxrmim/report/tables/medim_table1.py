"""MedIM Table 1: linear probe and segmentation of all methods."""

from cxrmim.report.layout import Layout

LAYOUT = Layout(
    title="MedIM Table 1",
    caption="Classification and segmentation results of different pre-training methods on three "
    "downstream test sets under different ratios of available labelled data: CheXpert mAUC and "
    "COVIDx accuracy of a linear probe, SIIM Dice (x100).",
)
