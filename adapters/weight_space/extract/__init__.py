"""Extract a LoRA adapter from the difference of two whole models. Imports torch."""

from adapters.weight_space.extract.extract_report import ExtractReport, ModuleReport, OtherChange
from adapters.weight_space.extract.extract_spec import ExtractSpec
from adapters.weight_space.extract.extraction import extract

__all__ = ["ExtractReport", "ExtractSpec", "ModuleReport", "OtherChange", "extract"]
