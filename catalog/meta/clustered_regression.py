"""Meta-regression of effects that come in clusters: three-level, or any weights with a CR2 covariance."""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import chdtrc, fdtrc

from catalog.meta.analysis import ChoiceError, Choices, Data
from catalog.meta.clusters import claim_note
from catalog.meta.heterogeneity import heterogeneity
from catalog.meta.multilevel import robust_covariance, robust_interval, three_level
from catalog.meta.pool import quantile, two_sided
from catalog.meta.regress import Coefficient, Regression, dependent, regress
from catalog.meta.robust import cr2
from catalog.meta.weighted import Matrix

CLUSTERS_PER_MODERATOR = 4


def regressed(data: Data, X: Matrix, names: Sequence[str], choices: Choices) -> Regression:
    """Regress by the chosen model. ChoiceError when the model has no moderators or the data cannot carry them."""
    if choices.model in ("mh", "peto", "clusters"):
        raise ChoiceError(f"--mods: not with --model {choices.model}; use --model random --ci cr2, or three-level")
    if len(data.yi) < X.shape[1]:
        raise ChoiceError(f"--mods: {len(data.yi)} effects cannot carry {X.shape[1]} coefficients; drop moderators")
    if column := dependent(X, names):
        raise ChoiceError(f"--mods: {column} is constant or follows from the others; drop it")
    if choices.model == "three-level":
        return _three_level(data, X, names, choices)
    found = regress(
        data.yi,
        data.vi,
        X,
        names,
        common=choices.model == "common",
        tau2_method=choices.tau2,
        interval="z" if choices.ci == "cr2" else choices.ci,
        level=choices.level,
    )
    if choices.ci != "cr2":
        return found
    clusters = np.array(data.clusters)
    parts = [np.flatnonzero(clusters == name) for name in dict.fromkeys(clusters.tolist())]
    if len(parts) < 2:
        raise ChoiceError("--ci cr2: needs at least 2 clusters")
    variances = [np.diag(data.vi[part] + found.heterogeneity.tau2) for part in parts]
    covariance, df = cr2(data.yi, X, variances, parts)
    coefficients = [
        _coefficient(old.name, old.estimate, math.sqrt(float(covariance[at, at])), float(df[at]), choices.level)
        for at, old in enumerate(found.coefficients)
    ]
    return _with(found, coefficients, covariance, len(parts), robust=True)


def _three_level(data: Data, X: Matrix, names: Sequence[str], choices: Choices) -> Regression:
    clusters = list(data.clusters or ())
    fitted = three_level(data.yi, data.vi, clusters, data.levels or data.labels, X)
    between = fitted.sigma2_cluster + fitted.sigma2_level
    coefficients, notes = [], [*fitted.notes]
    for at, name in enumerate(names):
        if choices.ci == "cr2":
            one, more = robust_interval(fitted, at, choices.level)
            coefficients.append(Coefficient(name, one.estimate, one.se, one.low, one.high, one.p))
            notes += [f"{name}: {note}" for note in more]
        else:
            se = math.sqrt(float(fitted.covariance[at, at]))
            coefficients.append(_coefficient(name, float(fitted.coefficients[at]), se, math.inf, choices.level))
    total = three_level(data.yi, data.vi, clusters, data.levels or data.labels)
    before = total.sigma2_cluster + total.sigma2_level
    found = Regression(
        coefficients=(),
        qm=math.nan,
        qm_df=X.shape[1] - 1,
        qm_p=math.nan,
        df=math.inf,
        heterogeneity=heterogeneity(data.yi, data.vi, X, between, interval=False),
        r2=max(0.0, 1 - between / before) if before > 0 else math.nan,
        weights=(1 / (data.vi + between)) / (1 / (data.vi + between)).sum(),
        notes=tuple(notes),
    )
    robust = choices.ci == "cr2"
    covariance = robust_covariance(fitted)[0] if robust else fitted.covariance
    return _with(found, coefficients, covariance, len(set(clusters)), robust=robust)


def _coefficient(name: str, estimate: float, se: float, df: float, level: float) -> Coefficient:
    reach = quantile(df, level) * se
    return Coefficient(name, estimate, se, estimate - reach, estimate + reach, two_sided(estimate / se, df))


def _with(
    found: Regression, coefficients: Sequence[Coefficient], covariance: Matrix, clusters: int, *, robust: bool
) -> Regression:
    """The regression with other coefficients.

    With `robust` their Wald test is F with clusters - coefficients degrees of freedom, as metafor's `robust`, and none
    where these are used up; else chi².
    """
    estimates = np.array([one.estimate for one in coefficients[1:]])
    moderators = len(estimates)
    qm = float(estimates @ np.linalg.solve(covariance[1:, 1:], estimates)) if moderators else 0.0
    df, qm_p = math.inf, float(chdtrc(moderators, qm)) if moderators else 1.0
    if robust:
        df, qm = float(clusters - len(coefficients)), qm / max(moderators, 1)
        qm_p = float(fdtrc(moderators, df, qm)) if moderators and df > 0 else 1.0 if df > 0 else math.nan
    notes = [*found.notes, *filter(None, [claim_note(clusters)])]
    if moderators and clusters < CLUSTERS_PER_MODERATOR * moderators:
        notes.append(f"{clusters} clusters for {moderators} moderators: fewer than {CLUSTERS_PER_MODERATOR} each")
    return Regression(
        coefficients=tuple(coefficients),
        qm=qm,
        qm_df=moderators,
        qm_p=qm_p,
        df=df,
        heterogeneity=found.heterogeneity,
        r2=found.r2,
        weights=found.weights,
        notes=tuple(dict.fromkeys(notes)),
    )
