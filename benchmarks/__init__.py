"""Speed and memory of torchmsaf beside what one would write by hand, in one run: ``python -m benchmarks``."""
