"""Kubernetes: manifests made from the contracts (`generate`), and whether an API server would take them (`check`)."""
