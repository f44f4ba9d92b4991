"""What is measured: one module per kind of figure. Each function takes the running product and returns its figures."""
