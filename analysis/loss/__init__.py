"""Loss laws L(N, D): forms, search, resampling, judgement."""
