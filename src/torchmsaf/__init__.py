"""Multimodal fusion for networks you already have."""
__version__ = "0.1.0"
