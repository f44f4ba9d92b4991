"""`popfax person link`: a link that logs somebody in to the page of the product on this machine."""

from deploy.local.login_codes import LoginCodes
from deploy.operator.cli import connection
from deploy.operator.cli.errors import Failure
from deploy.operator.cli.options import Subscriber


def link(id_: Subscriber) -> None:
    """Print a link that logs somebody in to the local product's page, once: 0 done, 1 no product runs here."""
    made = LoginCodes(connection.DIRECTORY).link(id_)
    if made is None:
        raise Failure("no product runs here: start one with `popfax up`")
    print(made)
