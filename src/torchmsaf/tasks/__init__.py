"""Networks, a fusion, a loss and metrics as one trainable model."""
