"""The guard of what a message costs: counts that do not depend on the machine, and the file that they are held to."""
