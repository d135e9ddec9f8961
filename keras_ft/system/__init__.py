"""Devices and workers: what computes, and how several share the work."""
