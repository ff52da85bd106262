"""Print the table of our results beside R's: the largest difference of each method over all frozen references.

Run on demand, from the checkout: PYTHONPATH=. python tests/catalog/meta/agreement_with_r.py

The page on statistics (site/pages/statistics.md) has this table, and test_agreement_with_r.py compares the two. A
difference is relative to R's number where that is above 1, else absolute.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from catalog.meta import agreement, bias, clusters, effects, plan, sizes
from catalog.meta.inconsistency import inconsistency
from catalog.meta.multilevel import marginal, nested, three_level
from catalog.meta.network import fitted, network
from catalog.meta.network_studies import Arm, Mean, from_counts, from_means
from catalog.meta.pool import pool
from catalog.meta.regress import permutation_test, regress
from catalog.meta.robust import cr2
from catalog.meta.sensitivity import cumulative, influence, leave_one_out
from catalog.meta.splitting import splits
from catalog.meta.stratified import mantel_haenszel, peto

HERE = Path(__file__).parent
POOL, NETWORK, LEVELS, BIAS, AGREE = (
    json.loads((HERE / f"reference_{name}.json").read_text())
    for name in ("pool", "network", "multilevel", "bias", "agreement")
)
INTERVALS = {"z": "z", "knha": "hk", "adhoc": "hk-guarded"}
Compared = tuple[str, Any, Any]  # what, ours, R's


def column(values: Any) -> Any:
    return np.array(values, dtype=float)


def counts(entry: Any) -> sizes.Counts:
    return sizes.Counts(*(column(entry[key]) for key in ("k1", "n1", "k0", "n0")))


def asked(method: str) -> dict[str, Any]:
    return {"tau2_method": "REML" if method == "FE" else method, "common": method == "FE"}


def of_tables() -> Iterator[Compared]:
    for entry in POOL["tables"].values():
        table = counts(entry)
        for measure, r in entry["sizes"].items():
            found, theirs = sizes.sizes(measure, table), column(r["yi"])
            yield "Effect sizes OR, RR, AS (`escalc`), RD (its stated rule)", found.yi[found.used], theirs[found.used]
            yield (
                "Effect sizes OR, RR, AS (`escalc`), RD (its stated rule)",
                found.vi[found.used],
                column(r["vi"])[found.used],
            )
        for measure, r in entry["mh"].items():
            one = mantel_haenszel(measure, table)
            names = ("estimate", "se", "low", "high")
            yield "Mantel-Haenszel (`rma.mh`)", [getattr(one, name) for name in names], [r[name] for name in names]
        one, r = peto(table), entry["peto"]
        yield (
            "Peto (`rma.peto`)",
            [one.estimate, one.se, one.low, one.high],
            [r[n] for n in ("estimate", "se", "low", "high")],
        )
    for case in POOL["proportions"]:
        k, n = case["k"], case["n"]
        for name, ends in (
            ("wilson", effects.wilson(k / n, n, 1.959963984540054)),
            ("clopper_pearson", sizes.clopper_pearson(k, n)),
            ("jeffreys", sizes.jeffreys(k, n)),
        ):
            yield "Wilson, Clopper-Pearson, Jeffreys (`prop.test`, `binom.test`, `qbeta`)", ends, case[name]


def of_pooling() -> Iterator[Compared]:
    every = [(column(entry["yi"]), column(entry["vi"]), entry["fits"]) for entry in POOL["effects"].values()]
    for entry in POOL["tables"].values():
        for measure, fits in entry["fits"].items():
            found = sizes.sizes(measure, counts(entry))
            every.append((found.yi[found.used], found.vi[found.used], fits))
    for yi, vi, fits in every:
        for method, by_test in fits.items():
            for test, r in by_test.items():
                one = pool(yi, vi, interval=INTERVALS[test], prediction="metafor", **asked(method))
                name = "common effect" if method == "FE" else method
                ours = [one.estimate, one.se, one.low, one.high, one.p, one.heterogeneity.tau2]
                theirs = [r[key] for key in ("estimate", "se", "low", "high", "p", "tau2")]
                yield f"Pooling, {name}: estimate, intervals, p, tau² (`rma`)", ours, theirs
                if method != "FE":
                    hts = pool(yi, vi, interval=INTERVALS[test], prediction="hts", **asked(method))
                    yield "Prediction intervals, both variants (`predict`)", [one.pi_low, one.pi_high], r["pi_metafor"]
                    yield "Prediction intervals, both variants (`predict`)", [hts.pi_low, hts.pi_high], r["pi_hts"]
                    profile = [one.heterogeneity.tau2_low, one.heterogeneity.tau2_high]
                    yield "Q-profile interval of tau² (`confint`)", profile, [r["tau2_low"], r["tau2_high"]]


def of_sensitivity() -> Iterator[Compared]:
    for entry in POOL["effects"].values():
        yi, vi, r = column(entry["yi"]), column(entry["vi"]), entry["sensitivity"]
        labels = [str(place) for place in range(len(yi))]

        def refit(kept: Any, yi: Any = yi, vi: Any = vi) -> Any:
            return pool(yi[kept], vi[kept], profile=False)

        left = [one for _, one in leave_one_out(labels, refit)]
        added = [one for _, one in cumulative(labels, refit)][1:]
        for key in ("estimate", "se"):
            yield "Leave-one-out (`leave1out`)", [getattr(one, key) for one in left], r["leave_one_out"][key]
            yield "Cumulative (`cumul`)", [getattr(one, key) for one in added], r["cumulative"][key][1:]
        found = influence(labels, yi, vi, np.ones((len(yi), 1)))
        for key in ("rstudent", "dffits", "cook", "cov_r", "tau2", "q", "hat"):
            yield "Influence (`influence`)", [getattr(one, key) for one in found], r["influence"][key]


def of_regression() -> Iterator[Compared]:
    for entry in POOL["effects"].values():
        if "regression" not in entry:
            continue
        X = np.column_stack([np.ones(len(entry["yi"])), column(entry["regression"]["mods"])])
        names = [str(at) for at in range(X.shape[1])]
        for r in entry["regression"]["fits"]:
            found = regress(
                column(entry["yi"]), column(entry["vi"]), X, names, interval=INTERVALS[r["test"]], **asked(r["method"])
            )
            for key in ("estimate", "se", "low", "high", "p"):
                yield "Meta-regression (`rma`, mods)", [getattr(one, key) for one in found.coefficients], r[key]
            yield "Meta-regression (`rma`, mods)", [found.qm_p, found.heterogeneity.tau2], [r["qm_p"], r["tau2"]]
    for r in POOL["permutation"]:
        X = np.column_stack([np.ones(len(r["yi"])), column(r["mods"])])
        names = [str(at) for at in range(X.shape[1])]
        kind = {"tau2_method": r["method"], "interval": INTERVALS[r["test"]]}
        tested = permutation_test(column(r["yi"]), column(r["vi"]), X, names, **kind)
        yield "Exact permutation test (`permutest`)", list(tested.p.values()), r["p"]


def of_levels() -> Iterator[Compared]:
    for case in LEVELS["cases"]:
        given = column(case["yi"]), column(case["vi"]), case["cluster"], case["level"], column(case["x"])
        one = three_level(*given)
        ours = [one.sigma2_cluster, one.sigma2_level, *one.coefficients, *np.sqrt(np.diag(one.covariance))]
        theirs = [*case["sigma2"], *np.atleast_1d(case["beta"]), *np.atleast_1d(case["se"])]
        yield "Three-level REML (`rma.mv`)", ours, theirs
        data = nested(*given)
        parts = np.split(np.arange(len(data.y)), data.cluster_starts[1:])
        blocks = [marginal(data, *case["sigma2"], part) for part in parts]
        covariance, df = cr2(data.y, data.x, blocks, parts)
        theirs = [*np.atleast_1d(case["cr2"]["se"]), *np.atleast_1d(case["cr2"]["df"])]
        yield "CR2 with Satterthwaite df (`clubSandwich`)", [*np.sqrt(np.diag(covariance)), *df], theirs
        names, yi, vi = clusters.aggregate(given[0], given[1], case["cluster"])
        order = [names.index(str(name)) for name in case["clusters"]["names"]]
        expected = [*case["clusters"]["yi"], *case["clusters"]["vi"]]
        yield "Averages of clusters (`aggregate`)", [*yi[order], *vi[order]], expected


def of_networks() -> Iterator[Compared]:
    for case in NETWORK["cases"]:
        arms, r = case["arms"], case["result"]
        if case["sm"] == "MD":
            rows = zip(arms["study"], arms["treatment"], arms["mean"], arms["sd"], arms["n"], strict=True)
            studies = from_means([Mean("", str(s), t, m, sd**2 / n) for s, t, m, sd, n in rows])
        else:
            rows = zip(arms["study"], arms["treatment"], arms["events"], arms["n"], strict=True)
            studies = from_counts([Arm("", str(s), t, k, n) for s, t, k, n in rows], case["sm"])[0]
        found = {method: network(studies, r["ref"], method) for method in ("common", "DL", "REML")}
        order = [found["DL"].treatments.index(name) for name in r["others"]]
        for method, key in (("common", "common"), ("DL", "dl"), ("REML", "reml")):
            one, theirs = found[method], r[key]
            ours = [*one.theta[order], *one.covariance[np.ix_(order, order)].ravel()]
            said = "Jackson, White & Riley 2012" if method == "DL" else "`rma.mv`"
            name = f"Network, {method}: contrasts, covariance, tau² ({said})"
            yield name, ours, [*(theirs["estimate"][n] for n in r["others"]), *np.ravel(theirs["vcov"])]
            if method != "common":
                yield name, one.tau2, theirs["tau2"]
        at = fitted(found["REML"].rows, "REML", r["reml"]["tau2"])
        expected = [r["reml"]["estimate"][name] for name in r["others"]]
        yield "Network, contrasts at metafor's own REML tau²", at.theta[order], expected
        tested = inconsistency(studies, found["DL"])
        parts = [tested.within.q, tested.between.q, tested.between_random.q]
        expected = [r["within"]["q"], r["between"]["q"], r["between"]["q_random"]]
        yield "Network, Q within and between designs (`rma.mv`)", parts, expected
        made = {frozenset((one.treat1, one.treat2)): one for one in splits(studies, found["DL"])}
        for theirs in r["splits"]:
            one = made[frozenset((theirs["treat1"], theirs["treat2"]))]
            sign = 1 if one.treat1 == theirs["treat1"] else -1
            yield "Network, node splits (without the studies, `rma.mv`)", sign * one.direct, theirs["direct"]
            if "indirect" in theirs:
                yield "Network, node splits (without the studies, `rma.mv`)", sign * one.indirect, theirs["indirect"]


def of_bias() -> Iterator[Compared]:
    scales = [(column(e["yi"]), column(e["vi"]), e["GEN"], e["fills"]) for e in BIAS["effects"].values()]
    for entry in BIAS["tables"].values():
        for measure in ("OR", "AS"):
            found = sizes.sizes(measure, counts(entry))
            scales.append((found.yi, found.vi, entry[measure], entry["fills"] if measure == "OR" else []))
        tested, names = bias.peters(counts(entry)), ("slope", "se", "p", "limit")
        yield "Peters (`lm`)", [getattr(tested, n) for n in names], [entry["peters"][n] for n in names]
    for yi, vi, r, fills in scales:
        for name, tested in (("egger", bias.egger(yi, vi)), ("thompson", bias.thompson(yi, vi))):
            said = f"{'Egger' if name == 'egger' else 'Egger, random effects'} (`regtest`)"
            keys = ("statistic", "p", "limit", "limit_low", "limit_high")
            yield said, [getattr(tested, key) for key in keys], [r[name][key] for key in keys]
        for fill in fills:
            test = "hk" if fill["test"] == "knha" else "z"
            made = bias.trim_and_fill(
                yi, vi, fill["estimator"], side=fill["asked"], interval=test, **asked(fill["method"])
            )
            ours = [made.missing, made.pooled.estimate, made.pooled.se]
            yield "Trim-and-fill, L0 and R0 (`trimfill`)", ours, [fill[key] for key in ("k0", "estimate", "se")]


def of_agreement() -> Iterator[Compared]:
    for name in ("pefr", "claims"):
        r = AGREE[name]
        x, y = column(r["x"]), column(r["y"])
        own = tuple(map(str, range(len(x))))
        found = agreement.agree(agreement.Pairs(own, tuple(map(str, r["cluster"])), ("",) * len(x), x, y))
        bound = [found.bias.estimate, found.bias.low, found.bias.high]
        yield "Bias of reported numbers, CR2 (`clubSandwich`)", bound, r["bias"]
        for key in ("ccc", "spearman", "kendall"):
            one = getattr(found, key)
            yield "Concordance, Spearman, Kendall with intervals", [one.value, one.low, one.high], r[key]
        for ratio, theirs in r["deming"].items():
            slope = agreement.deming(x, y, float(ratio)).slope
            yield "Deming line, jackknife (`prcomp`)", [slope.value, slope.low, slope.high], theirs["slope"]
    for case in AGREE["power"]:
        yield "Power (`power.t.test`)", plan.power(case["delta"], case["sd"], case["n"]), case["power"]
    for case in AGREE["tost"]:
        ours = plan.power_tost(case["margin"], case["sd"], case["n"], case["delta"])
        yield "Power of equivalence (numerical integration)", ours, case["power"]


def differences() -> dict[str, tuple[int, float]]:
    """By method: how many numbers R gives, and the largest difference of ours from them."""
    worst: dict[str, tuple[int, float]] = {}
    for part in (of_tables, of_pooling, of_sensitivity, of_regression, of_levels, of_networks, of_bias, of_agreement):
        for name, ours, theirs in part():
            a, b = np.atleast_1d(column(ours)).ravel(), np.atleast_1d(column(theirs)).ravel()
            known = ~np.isnan(b)
            gap = np.abs(a[known] - b[known]) / np.maximum(1, np.abs(b[known]))
            gap[np.isnan(gap)] = np.inf
            count, largest = worst.get(name, (0, 0.0))
            worst[name] = count + len(gap), max(largest, float(gap.max(initial=0.0)))
    return worst


def rounded(gap: float) -> float:
    """The next power of ten; below 1e-12 machines differ."""
    return max(1e-12, 10.0 ** np.ceil(np.log10(max(gap, 1e-300))))


def table() -> str:
    """The differences in Markdown."""
    lines = ["| Method (in R) | Numbers | Largest difference below |", "|---|--:|--:|"]
    lines += [f"| {name} | {count} | {rounded(gap):.0e} |" for name, (count, gap) in differences().items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(table())
