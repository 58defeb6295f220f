"""Anyone's runs: read into one table, and the optimum of every cell."""
