"""What needs a Docker engine: `make test-images` runs it. pytest does not collect these files by itself."""
