"""The table on the page of statistics is what comparing with R's frozen numbers gives."""

import re
from pathlib import Path

from agreement_with_r import differences

PAGE = Path(__file__).parents[3] / "site/pages/statistics.md"
ROW = re.compile(r"^\| (.+?) \| (\d+) \| (1e-\d+) \|$", re.MULTILINE)
ITERATIVE = 1e-4


def test_the_published_table_holds() -> None:
    published = {name: (int(count), float(gap)) for name, count, gap in ROW.findall(PAGE.read_text(encoding="utf-8"))}
    found = differences()
    assert {name: count for name, (count, _) in published.items()} == {name: n for name, (n, _) in found.items()}
    for name, (_, gap) in found.items():
        assert gap <= 10 * published[name][1] <= ITERATIVE, name
