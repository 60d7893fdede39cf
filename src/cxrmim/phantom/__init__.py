"""Synthetic chest radiographs and reports in the on-disk layouts of the real data sets.

`python -m cxrmim.phantom` writes them; nothing downstream can tell them from the real folders
except by looking at the pictures. Every label is a latent finding, every nuisance is drawn without
looking at the findings, and `cxrmim.phantom.audit` measures that this is so.
"""
