"""Planning and running sweeps: from a question to records.  Bundled questions live in `sweeps.bundled`."""
