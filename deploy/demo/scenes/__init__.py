"""The scenes: each plays one part of the story, tells it, and gives what it read back."""
