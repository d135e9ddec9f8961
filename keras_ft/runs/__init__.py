"""A run on disk: paths, records, lock, life cycle."""
