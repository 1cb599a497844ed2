"""Cells of text as model inputs, with NumPy alone: what training, serving and encrypted clients agree on."""
