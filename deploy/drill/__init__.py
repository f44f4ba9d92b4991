"""`popfax drill`: what an operator would rather meet here first, on a product of its own, than in production."""

import typer

from deploy.drill.command import upgrade

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)
app.command("upgrade")(upgrade)


@app.callback()
def _drills() -> None:
    """Try on this machine, under traffic, what is to be done in production."""
