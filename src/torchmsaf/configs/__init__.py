"""Command-line arguments as YAML: the names of the options, and nothing else."""
