"""Extraction: a LoRA adapter from the difference of two whole models. Imports torch."""

from adapters.extract.extraction import extract, unpack
from adapters.extract.report import ExtractReport, ModuleReport, OtherChange
from adapters.extract.spec import BitGroup, ExtractSpec, parse_bits

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
