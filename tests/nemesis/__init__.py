"""The nemesis: the whole product with several replicas of everything, under load, while everything that can fails."""
