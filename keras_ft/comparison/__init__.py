"""Sweeps: plan, run, rank, summarize."""
