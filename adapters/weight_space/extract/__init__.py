"""Extraction: a LoRA adapter from the difference of two whole models. Imports torch."""

from adapters.weight_space.extract.extract_report import ExtractReport, ModuleReport, OtherChange
from adapters.weight_space.extract.extract_spec import BitGroup, ExtractSpec, parse_bits
from adapters.weight_space.extract.extraction import extract, unpack

__all__ = [
    "BitGroup",
    "ExtractReport",
    "ExtractSpec",
    "ModuleReport",
    "OtherChange",
    "extract",
    "parse_bits",
    "unpack",
]
