"""Everything `hft meta bias` says, as one JSON document and as lines; nothing is rounded in the first."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import cast

from catalog.meta import analysis
from catalog.meta.analysis import Data
from catalog.meta.bias import Asymmetry, Diagnosis, Filled
from catalog.meta.document import Document, empty_arms, plain
from catalog.meta.effects import Estimate
from catalog.meta.optimism import Contrast, Gap
from catalog.meta.pool import Pooled
from catalog.meta.weighted import Vector
from catalog.meta.words import scale_of
from catalog.meta.worst import Worst


def document(
    data: Data, pooled: Pooled, found: Diagnosis, n: Vector | None, heights: Vector, axis: str, source: str
) -> Document:
    """Tests, trim-and-fill, why others did not run, and the points of the funnel."""
    sizes = [None] * len(data.yi) if n is None else n.tolist()
    points = zip(data.labels, data.yi.tolist(), data.vi.tolist(), sizes, heights.tolist(), strict=True)
    made = {
        "measure": data.measure,
        **_pooled(pooled),
        "k": len(data.yi),
        "clusters": analysis.clusters_of(data),
        "k_excluded": data.excluded,
        "tests": [_asymmetry(one) for one in found.asymmetry],
        "trim_and_fill": [_filled(one) for one in found.filled],
        "not_run": found.not_run,
        "funnel": {
            "height": axis,
            "points": [
                {"label": label, "yi": y, "vi": v, "se": v**0.5, "n": size, "height": height}
                for label, y, v, size, height in points
            ],
        },
        "notes": [*data.notes, *empty_arms(data, with_mh=True), *found.notes, *pooled.notes],
        "method": {"input": source},
    }
    return cast("Document", plain(made))


def contrast(found: Contrast) -> Document:
    """Own against other evaluators."""
    one = found.difference
    groups = zip((found.own, found.other), found.effects, found.clusters, strict=True)
    own, other = ({**_pooled(pooled), "k": k, "clusters": clusters} for pooled, k, clusters in groups)
    made = {
        "difference": one.estimate,
        "se": one.se,
        "ci_low": one.low,
        "ci_high": one.high,
        "p": one.p,
        "self": own,
        "third_party": other,
        "notes": found.notes,
    }
    return cast("Document", plain(made))


def gap(found: Gap) -> Document:
    """Reported minus measured."""
    mean = found.mean
    made = {
        "mean": mean.estimate,
        "se": mean.se,
        "df": mean.df,
        "ci_low": mean.low,
        "ci_high": mean.high,
        "p": mean.p,
        "limit_low": found.limit_low,
        "limit_high": found.limit_high,
        "pairs": found.pairs,
        "clusters": found.clusters,
        "notes": found.notes,
    }
    return cast("Document", plain(made))


def worst(found: Worst) -> Document:
    """A corrected maximum beside the naive one."""
    made = {
        "value": found.value,
        "low": found.low,
        "high": found.high,
        "naive": _estimate(found.naive) | {"condition": found.condition},
        "conditions": found.conditions,
        "plausible": found.plausible,
        "prompts": found.naive.prompts,
        "seeds": found.naive.seeds,
    }
    return cast("Document", plain(made))


def lines(made: Document) -> list[str]:
    """What a person reads of a document: tests, fills and reasons, one a line."""
    factor = scale_of(made["measure"])
    said = [f"{made['k']} effects" + (f" in {made['clusters']} clusters" if made["clusters"] else "")]
    for one in made["tests"]:
        df = "" if one["df"] is None else f" on {one['df']:.3g} df"
        text = f"{one['name']} ({one['predictor']}): {one['statistic']:.2f}{df}, p {one['p']:.3g}; effect at the limit "
        text += f"{one['limit']:.3g} ({one['limit_ci_low']:.3g} to {one['limit_ci_high']:.3g}), scale {one['scale']}"
        said.append(text + (f"; sensitivity only: {one['flagged']}" if one["flagged"] else ""))
    for one in made["trim_and_fill"]:
        ends = (f"{factor * one[name]:.3g}" for name in ("estimate", "ci_low", "ci_high"))
        filled = "{} ({} to {})".format(*ends)
        said.append(
            f"trim-and-fill {one['estimator']} (sensitivity only): {one['missing']} missing on the {one['side']};"
            f" with them {filled}"
        )
    reasons: dict[str, list[str]] = {}
    for name, reason in made["not_run"].items():
        reasons.setdefault(reason, []).append(name)
    said += [f"{', '.join(names)}: {reason}" for reason, names in reasons.items()]
    return said + [f"note: {note}" for note in made["notes"]]


def span(made: Document, measure: str, *names: str) -> str:
    """A value with its interval, in points for risk differences."""
    factor = scale_of(measure)
    value, low, high = ("–" if made[name] is None else f"{factor * made[name]:.3g}" for name in names)
    return f"{value} ({low} to {high})"


def _pooled(found: Pooled) -> Document:
    return {"estimate": found.estimate, "se": found.se, "ci_low": found.low, "ci_high": found.high}


def _asymmetry(one: Asymmetry) -> Document:
    return {
        "name": one.name,
        "scale": one.scale,
        "predictor": one.predictor,
        "slope": one.slope,
        "se": one.se,
        "statistic": one.statistic,
        "df": one.df,
        "p": one.p,
        "limit": one.limit,
        "limit_ci_low": one.limit_low,
        "limit_ci_high": one.limit_high,
        "flagged": one.flagged or None,
    }


def _filled(one: Filled) -> Document:
    added: Sequence[float] = one.yi.tolist()
    said = {"estimator": one.estimator, "side": one.side, "missing": one.missing, "missing_se": one.se, "p": one.p}
    return said | _pooled(one.pooled) | {"added": added, "flagged": "sensitivity only"}


def _estimate(one: Estimate) -> Document:
    return {name: value for name, value in asdict(one).items() if name in ("value", "low", "high", "se", "df")}
