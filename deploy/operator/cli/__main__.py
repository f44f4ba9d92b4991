"""`python -m deploy.operator.cli`: the same command line where no package is installed, as in the operator's image."""

from deploy.operator.cli import main

main()
