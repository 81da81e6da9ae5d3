"""Speed and memory of torchmsaf beside a straightforward implementation, in one run: ``python -m benchmarks``."""
