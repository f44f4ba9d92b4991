"""The version of the contracts. Written by `make contracts`."""

__version__ = "2.1.0"
