"""`popfax person link`: a link that logs somebody in to the page of the product on this machine."""

from typing import Annotated

import typer

from deploy.local.keys import DevelopmentKeys
from deploy.operator.cli import connection
from deploy.operator.cli.errors import Failure
from deploy.operator.cli.options import Subscriber


def link(id_: Subscriber, url: Annotated[str, typer.Argument(metavar="URL", help="The page's address.")]) -> None:
    """Print a link that logs somebody in to the local product's page, once: 0 done, 1 no product was started here."""
    directory = connection.DIRECTORY / "keys"
    if not directory.exists():
        raise Failure("no product was started here: start one with `popfax up`")
    print(DevelopmentKeys(directory).login_link(url.rstrip("/"), id_))
