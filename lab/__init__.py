"""The instrument: how one run, or K lanes of runs, is configured, trained and recorded.

Importing this package does not import JAX; its modules do so only where they compute.
"""
