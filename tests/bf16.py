"""What tests in bfloat16 need of a CPU: torch runs no LSTM in it without the instructions."""

import pytest
import torch
from torch import nn

SUPPORTED = not torch.backends.mkldnn.is_available() or torch.ops.mkldnn._is_mkldnn_bf16_supported()
REASON = "this CPU has no instructions for bfloat16"
needs_bf16 = pytest.mark.skipif(not SUPPORTED, reason=REASON)


def skip_lstm_without_bf16(network: nn.Module) -> None:
    """Skip the test where the network has an LSTM and the CPU cannot run it."""
    if not SUPPORTED and any(isinstance(module, nn.LSTM) for module in network.modules()):
        pytest.skip(REASON)
