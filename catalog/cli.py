"""The program `hft`. Commands stand in catalog/commands by theme; everything heavy is imported inside its command."""

import typer

from catalog.commands import (
    catalogue,
    contributing,
    discovery,
    exporting,
    github,
    importing,
    measuring,
    publishing,
    upkeep,
)
from catalog.meta import command as meta

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="HFT Atlas: the literature on harmful fine-tuning, reproduced and measured.",
)

app.command()(catalogue.check)
app.command()(catalogue.fmt)
app.command()(catalogue.build)
app.command("list")(catalogue.list_papers)
app.command()(catalogue.show)
app.command()(catalogue.search)
app.command()(contributing.add)
app.command()(contributing.new)
app.command("import")(importing.import_papers)
app.command()(upkeep.sync)
app.command()(discovery.discover)
app.command()(discovery.triage)
app.add_typer(exporting.app, name="export")
app.command()(measuring.run)
app.command()(measuring.results)
app.add_typer(meta.app, name="meta")
app.command()(publishing.readme)
app.command()(publishing.site)
app.add_typer(github.app, name="github")
