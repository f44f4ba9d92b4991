"""Measures the product on this machine: `python -m tests.bench` (see `--help`)."""
