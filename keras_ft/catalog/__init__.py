"""The tables of networks and formats, and what a model file says of itself."""
