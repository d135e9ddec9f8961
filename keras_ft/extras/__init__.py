"""What the main job does without; the core reaches it through tables of names."""
