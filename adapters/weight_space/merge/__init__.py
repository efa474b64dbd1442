"""Merge several adapters into one, by published methods.

A new method is one file and one line in `METHODS`.
"""

from adapters.weight_space.merge.merge_report import MergedModule, MergeReport
from adapters.weight_space.merge.merge_spec import MERGE_SCHEMA, MergeSpec
from adapters.weight_space.merge.method import MergeMember, Method, Parameter, RankRule
from adapters.weight_space.merge.methods import METHODS
from adapters.weight_space.merge.run import Progress, merge

__all__ = [
    "MERGE_SCHEMA",
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
