"""Programs compiled for accelerators by a machine that has none: what they consist of."""
