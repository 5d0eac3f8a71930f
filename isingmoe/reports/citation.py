"""How the package is cited: CITATION.cff, as far as a page shows it."""

from __future__ import annotations

__all__ = ["PAPER", "PAPER_URL", "bibtex", "software"]

AUTHORS = "The isingmoe developers"
TITLE = "isingmoe: statistical physics of expert routing"
PAPER = (
    "D. Bershatsky and I. Oseledets, On the Spatial Structure of Mixture-of-Experts in "
    "Transformers, arXiv:2504.04444 (2025)"
)
PAPER_URL = "https://arxiv.org/abs/2504.04444"


def software(version: str) -> str:
    """The software, as a list of references names it."""
    return f"{AUTHORS}, {TITLE}, version {version}"


def bibtex(version: str) -> str:
    """Entries of the software and of the paper it builds on."""
    return f"""@software{{isingmoe,
  author  = {{{{{AUTHORS}}}}},
  title   = {{{TITLE}}},
  version = {{{version}}}
}}

@article{{bershatsky2025spatial,
  author  = {{Bershatsky, Daniel and Oseledets, Ivan}},
  title   = {{On the Spatial Structure of Mixture-of-Experts in Transformers}},
  journal = {{arXiv:2504.04444}},
  year    = {{2025}}
}}"""
