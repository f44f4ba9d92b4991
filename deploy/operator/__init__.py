"""The operator's tools: the command line (`cli`), and what it works with."""
