"""What must hold in every interleaving, searched exhaustively with small constants: docs/models says which."""
