"""Bundled sweeps: one module per question, each with a `sweep()` function; `lrlab sweep --list` shows them."""
