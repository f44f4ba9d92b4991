"""The operator's tools: the command line (`cli`), and what it is built on."""
