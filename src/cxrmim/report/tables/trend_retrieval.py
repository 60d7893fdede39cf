"""Scale `trend`: does image-text alignment find the right pairs?"""

from cxrmim.report.layout import Layout, Measure

LAYOUT = Layout(
    title="Trend: retrieval",
    caption="Retrieval on held-out pairs, R@10 (x100), mean and spread over pretraining seeds, and "
    "as a multiple of chance. Trained on shuffled pairs, a method must fall to chance; for CMITM "
    "both stages see shuffled pairs. MAE and MRM are not here: neither has a space that images and "
    "reports share (MRM's reports are read together with their image), so they rank nothing.",
    measures=tuple(
        Measure(f"{side}_r10", side.upper(), "R@10", f"{side}_r10") for side in ("t2i", "i2t")
    ),
    multiple_of="chance",
)
