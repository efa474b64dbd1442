"""Merging adapters into one adapter: published methods, as data.

A new method is a file and a line in `METHODS`.
"""

from adapters.merge.method import Method, Parameter, RankRule
from adapters.merge.methods import METHODS
from adapters.merge.report import MergedModule, MergeReport
from adapters.merge.run import Progress, merge
from adapters.merge.spec import MergeMember, MergeSpec

__all__ = [
    "METHODS",
    "MergeMember",
    "MergeReport",
    "MergeSpec",
    "MergedModule",
    "Method",
    "Parameter",
    "Progress",
    "RankRule",
    "merge",
]
