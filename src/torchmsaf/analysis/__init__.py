"""Parameters, FLOPs, kernels and bytes; statistics; tables and reports from plain records."""
