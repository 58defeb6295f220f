"""Machines, one TOML each: data, read through importlib.resources; never part of a run's identity."""
