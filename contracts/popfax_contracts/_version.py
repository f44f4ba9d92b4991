"""The version of the contracts. Written by `make contracts`."""

__version__ = "2.0.0"
