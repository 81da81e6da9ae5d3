"""Text features: the last hidden states of a frozen encoder, one vector a word."""

from torchmsaf.data.prepare.text.encoder import TextEncoder as TextEncoder

__all__ = ["TextEncoder"]
