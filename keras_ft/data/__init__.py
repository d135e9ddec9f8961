"""Which examples: folders, tables, built-in and TFDS sets, file facts, splits."""
