"""`python -m catalog` is the same program as `hft`."""

from catalog.cli import app

app(prog_name="hft")
