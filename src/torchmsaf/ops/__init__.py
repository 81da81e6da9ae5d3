"""Pure functions on tensors: the equations, and the fast path beside them."""
