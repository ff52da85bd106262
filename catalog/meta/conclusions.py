"""What the living analysis concludes, each in a few coded words, and how that changed since the last report.

Every report on other records is a look at growing data. Looks are counted and intervals are not adjusted for them, so
a conclusion that appears after many looks deserves less trust than one that was there from the start.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from catalog.meta.clusters import FEWEST
from catalog.meta.margins import Margins
from catalog.meta.pool import Pooled, quantile
from catalog.meta.settings import Effect

Document = dict[str, Any]
NO_CLAIM = "no general claim"
OPEN = "inconclusive on"


@dataclass(frozen=True)
class Conclusion:
    """A coded statement, and the keys of the records behind it."""

    says: str
    records: tuple[str, ...]


def of_effect(found: Pooled, clusters: int, effect: Effect, margins: Margins) -> str:
    """What a pooled difference to SFT shows.

    Harmful score: lowered or raised (95 % interval beside 0), or practically no effect (90 % interval inside the
    smallest effect worth having, TOST). Accuracy: kept when the 95 % interval excludes a loss of the margin, lost when
    it lies below 0.
    """
    if clusters < FEWEST:
        return NO_CLAIM
    if effect == "fa_rd":
        if found.low > -margins.m_fa:
            return "keeps FA"
        return "loses FA" if found.high < 0 else f"{OPEN} FA"
    if found.high < 0:
        return "lowers HS"
    if found.low > 0:
        return "raises HS"
    reach = quantile(found.df, 1 - 2 * margins.alpha) * found.se
    inside = -margins.m_sup < found.estimate - reach and found.estimate + reach < margins.m_sup
    return "practically no effect on HS" if inside else f"{OPEN} HS"


def document(conclusions: Mapping[str, Conclusion]) -> Document:
    """By name, in order."""
    return {name: {"says": one.says, "records": list(one.records)} for name, one in sorted(conclusions.items())}


def history(now: Document, records: Sequence[str], digest: str, before: Document | None) -> Document:
    """Looks and the change log: that of the last report, with an entry more when the records or a conclusion differ.

    An entry names each conclusion that is new, gone or different, and the records that came or went behind it; without
    any of them the rules or the program changed.
    """
    if before is None:
        first = {"look": 1, "digest": digest, "records_added": len(records), "records_removed": 0, "changed": []}
        return {"looks": 1, "changes": [first]}
    old, known = before["conclusions"], before["records"]
    came, went = set(records).difference(known["keys"]), set(known["keys"]).difference(records)
    changed = [_change(name, old.get(name), now.get(name), came, went) for name in sorted(old.keys() | now.keys())]
    changed = [one for one in changed if one["before"] != one["after"]]
    if digest == known["digest"] and not changed:
        return {"looks": before["looks"], "changes": before["changes"]}
    looks = before["looks"] + (digest != known["digest"])
    entry = {
        "look": looks,
        "digest": digest,
        "records_added": len(came),
        "records_removed": len(went),
        "changed": changed,
    }
    return {"looks": looks, "changes": [*before["changes"], entry]}


def _change(
    name: str, before: Document | None, after: Document | None, came: AbstractSet[str], went: AbstractSet[str]
) -> Document:
    added = sorted(came & set((after or {}).get("records", ())))
    removed = sorted(went & set((before or {}).get("records", ())))
    return {
        "conclusion": name,
        "before": before and before["says"],
        "after": after and after["says"],
        "added": added,
        "removed": removed,
        "cause": "records" if added or removed else "rules or program",
    }
