"""Tasks and their kinds: all that depends on what an answer is."""
