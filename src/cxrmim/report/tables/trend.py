"""Scale `trend`: does pretraining help a linear probe at all?"""

from cxrmim.report.layout import Layout

LAYOUT = Layout(
    title="Trend: linear probe",
    caption="CheXpert mAUC (x100) of a linear probe on small ViTs, mean and spread over "
    "pretraining seeds. Compare the rows above the line with each other only: the pixel "
    "regression sees the same images without any pretraining.",
)
