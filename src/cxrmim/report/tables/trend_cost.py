"""Scale `trend`: what a row's pretraining costs, and whether it beats random weights."""

from cxrmim.report.layout import Layout

LAYOUT = Layout(
    title="Trend: cost and gain",
    caption="CPU seconds of a row's pretraining, the pretraining that it starts from and the "
    "start of the processes included; training images that went through it; CheXpert mAUC (x100) "
    "of a linear probe on 1% of the labels, and what it gains over random weights of the same "
    "seed. Three measurements tell why a row gains nothing: the mAUC on the 1% that the heads were "
    "trained on (near 100 beside a low test value: the heads fit few images by features that do "
    "not generalise; low: the features do not even tell those apart); the mAUC of a probe on the "
    "mean of the patch tokens in place of CLS, which masked modelling trains only through what "
    "patches take from it; and the effective rank of the frozen features on the test images "
    "(participation ratio of their covariance: near 1, the encoder has collapsed to one "
    "direction).",
    prints="cost",
)
