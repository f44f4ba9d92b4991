"""What the documents take from the code: tables that are written by `make docs` and compared by the tests."""
