"""Published laws: what they say, side by side, and what they cost on measured runs."""
