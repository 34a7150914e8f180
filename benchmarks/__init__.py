"""Measurements of this project against others, side by side in one run: ``python -m benchmarks --help``."""
