"""From records to claims: load, optimum per cell, drift, figures, report.  Nothing here imports JAX."""
