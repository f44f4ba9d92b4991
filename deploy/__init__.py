"""Everything around the services: the command line, the topics, the local stack, images and compose files."""
