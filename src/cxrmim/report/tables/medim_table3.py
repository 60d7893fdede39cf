"""MedIM Table 3: ablation of the two masking strategies."""

from cxrmim.report.layout import Layout, Measure

YES, NO = "✓", "×"

LAYOUT = Layout(
    title="MedIM Table 3",
    caption="Ablation study of different components in MedIM with 10% of the labels: COVIDx "
    "accuracy, CheXpert mAUC, SIIM Dice (x100).",
    measures=(Measure("{dataset}", "Tasks", "{name}"),),
    stub="Components",
    marks=("L_align", "KWM", "SDM"),
    marked={"mgca": (YES, NO, NO), "medim-kwm": (YES, YES, NO), "medim": (YES, YES, YES)},
)
