"""The scenes: each plays one part of the story, tells it, and returns what it read back."""
