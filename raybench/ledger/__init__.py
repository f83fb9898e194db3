"""Where results are kept: the Parquet dataset, its paths on this machine or in a store, and a sweep's lock."""
