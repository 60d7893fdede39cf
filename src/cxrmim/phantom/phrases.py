"""The vocabulary of the reports: how findings, their absence and everything around them are said.

Placeholders: {size} severity word, {side} right/left/bilateral, {Side} the same with a capital,
{zone} upper/mid/lower with its noun, {s} the plural of a bilateral noun.
"""

SIZES = {
    "Cardiomegaly": ("mild", "moderate", "severe"),
    "Pleural Effusion": ("small", "moderate", "large"),
    "Pneumothorax": ("small", "moderate", "large"),
    "Consolidation": ("mild", "moderate", "dense"),
    "Atelectasis": ("minimal", "mild", "moderate"),
    "Edema": ("mild", "moderate", "severe"),
    "Enlarged Cardiomediastinum": ("mild", "moderate", "marked"),
    "Lung Lesion": ("5 mm", "9 mm", "2 cm"),
    "Pleural Other": ("mild", "mild", "moderate"),
    "Fracture": ("nondisplaced", "healing", "displaced"),
}

PRESENT = {
    "Cardiomegaly": (
        "There is {size} cardiomegaly.",
        "The heart is {ly} enlarged.",
        "{Size} enlargement of the cardiac silhouette.",
        "The cardiac silhouette is {ly} enlarged.",
    ),
    "Pleural Effusion": (
        "There {are} {a}{size} {side} pleural effusion{s}.",
        "{Size} {side} pleural effusion{s}.",
        "{Side} pleural effusion{s}, {size} in size.",
        "Blunting of the {side} costophrenic angle{s} is consistent with {a}{size} effusion{s}.",
    ),
    "Pneumothorax": (
        "There is a {size} {side} apical pneumothorax.",
        "{Size} {side} pneumothorax.",
        "{Side} pneumothorax is {size}, with a visible pleural line.",
        "A {size} pneumothorax is seen at the {side} apex.",
    ),
    "Consolidation": (
        "There is {size} consolidation in the {zone}.",
        "{Size} airspace opacity in the {zone} represents consolidation.",
        "Focal consolidation is seen within the {zone}.",
        "{Size} {zone} consolidation.",
    ),
    "Atelectasis": (
        "There is {size} atelectasis at the {zone}.",
        "{Size} linear atelectasis in the {zone} with volume loss.",
        "Streaky opacity at the {zone} reflects {size} atelectasis.",
        "{Size} {zone} atelectasis.",
    ),
    "Edema": (
        "There is {size} pulmonary edema.",
        "{Size} interstitial edema with perihilar haziness.",
        "Pulmonary vascular congestion with {size} bilateral edema.",
        "Perihilar opacities are consistent with {size} pulmonary edema.",
    ),
    "Enlarged Cardiomediastinum": (
        "The mediastinum is widened.",
        "{Size} widening of the mediastinal contour.",
    ),
    "Lung Lesion": (
        "A {size} nodule projects over the {zone}.",
        "There is a {size} nodular opacity in the {zone}.",
    ),
    "Pleural Other": (
        "{Size} {side} apical pleural thickening.",
        "There is {side} pleural scarring.",
    ),
    "Fracture": (
        "There is a {size} {side} rib fracture.",
        "{Size} fracture of the {side} sixth rib.",
    ),
}

HEDGED = {
    "Cardiomegaly": ("Heart size is difficult to assess; cardiomegaly cannot be excluded.",),
    "Pleural Effusion": (
        "Possible trace {side} pleural effusion{s}.",
        "A small {side} effusion may be present.",
    ),
    "Pneumothorax": ("A tiny {side} pneumothorax cannot be excluded.",),
    "Consolidation": (
        "Opacity in the {zone} may represent early consolidation.",
        "Possible consolidation at the {zone}.",
    ),
    "Atelectasis": (
        "Opacity at the {zone} likely represents atelectasis.",
        "{Zone} opacity, possibly atelectasis.",
        "Probable atelectasis at the {zone}.",
    ),
    "Edema": ("Possible mild pulmonary edema.", "Findings may reflect mild interstitial edema."),
}

ABSENT = {
    "Cardiomegaly": (
        "The heart is normal in size.",
        "Heart size is within normal limits.",
        "The cardiac silhouette is unremarkable.",
        "No cardiomegaly.",
    ),
    "Atelectasis": ("No atelectasis.", "No evidence of atelectasis."),
    "Edema": (
        "No pulmonary edema.",
        "There is no evidence of pulmonary edema.",
        "No overt edema or vascular congestion.",
    ),
}

LISTABLE = {
    "Consolidation": "focal consolidation",
    "Pleural Effusion": "pleural effusion",
    "Pneumothorax": "pneumothorax",
}
"""Absent findings that reports deny in one breath."""

LISTS = (
    "There is no {list}.",
    "No {list}.",
    "No evidence of {list}.",
    "No {list} is seen.",
    "The lungs are without {list}.",
)

PNEUMONIA = (
    "This is concerning for pneumonia.",
    "Findings are compatible with pneumonia in the appropriate clinical setting.",
    "Pneumonia is favored.",
)

CLEAR = (
    "No acute cardiopulmonary process.",
    "No acute cardiopulmonary abnormality.",
    "No acute intrathoracic process.",
    "Normal chest radiograph.",
)

FILLERS = (
    "The mediastinal contours are unremarkable.",
    "The hilar contours are normal.",
    "The aorta is tortuous.",
    "No acute osseous abnormalities.",
    "Degenerative changes are seen in the thoracic spine.",
    "Imaged osseous structures are intact.",
    "No free air below the right hemidiaphragm.",
    "Lung volumes are low.",
    "The trachea is midline.",
    "The patient is status post median sternotomy.",
)

DEVICES = {
    "ecg leads": ("Overlying ECG leads are present.",),
    "central line": (
        "Right internal jugular catheter terminates in the SVC.",
        "Right-sided PICC line tip is in the mid superior vena cava.",
    ),
    "endotracheal tube": (
        "Endotracheal tube terminates 4.5 cm above the carina.",
        "ET tube is in standard position.",
    ),
    "enteric tube": (
        "Enteric tube courses below the diaphragm.",
        "Nasogastric tube tip is in the stomach.",
    ),
    "pacemaker": ("Left-sided pacemaker with leads in the right atrium and right ventricle.",),
}

COMPLAINTS = (
    "with shortness of breath",
    "with chest pain",
    "with fever and cough",
    "with new onset ascites",
    "status post fall",
    "with hypoxia",
    "with altered mental status",
    "s/p CABG",
    "with history of COPD",
)

RULE_OUT = (
    "eval for pneumonia",
    "please evaluate for effusion",
    "rule out pneumothorax",
    "evaluate for pulmonary edema",
    "assess for infiltrate or consolidation",
    "r/o cardiomegaly",
    "assess line placement",
    "acute process?",
)

COMPARISONS = (
    "None.",
    "Chest radiograph from ___.",
    "___.",
    "Comparison is made to prior study from ___ at 04:25.",
    "Chest radiographs ___ through ___.",
)

RECOMMENDATIONS = (
    "Recommend follow-up chest radiograph in 4 to 6 weeks.",
    "Findings were discussed with Dr. ___ by telephone at 10:15 on ___.",
    "CT may be obtained for further evaluation.",
)

IMPRESSION_NAMES: tuple[str, ...] = (
    "CONCLUSION",
    "FINDINGS AND IMPRESSION",
    "FINDINGS/IMPRESSION",
    "IMPRESSON",
)
IMPRESSION_NAMES += ("IMPRSSION", "FINDINGS/ IMPRESSION", "MPRESSION", "IMPERSSION")
FINDINGS_NAMES: tuple[str, ...] = (
    "FINDING",
    "FINDNGS",
    "CHEST, TWO VIEWS",
    "REFERENCE FINDINGS",
    "FINDINS",
)
FINDINGS_NAMES += ("PORTABLE AP CHEST RADIOGRAPH", "PA AND LATERAL VIEWS OF THE CHEST")
INDICATION_NAMES: tuple[str, ...] = (
    "CLINICAL INDICATION",
    "REASON FOR EXAM",
    "REASON FOR EXAMINATION",
    "HISTORY",
)
INDICATION_NAMES += ("CLINICAL HISTORY", "CLINICAL INFORMATION", "PATIENT HISTORY")
COMPARISON_NAMES = ("COMPARISONS", "COMPARISON EXAM", "COMPARISON FILM", "REFERENCE EXAM")
