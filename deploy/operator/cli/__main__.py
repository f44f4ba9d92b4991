"""`python -m deploy.operator.cli`: where no package is installed, as in the operator's image."""

from deploy.operator.cli import main

main()
