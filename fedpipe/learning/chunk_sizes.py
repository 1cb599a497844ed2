"""How many examples are worked on at once, which bounds what their activations and gradients take."""

CHUNK = 64  # gradients; more leave the processor's cache
ROWS = 4096  # of a batch, and of records that are scored
