"""Properties of networks: what must not matter does not, and what cannot be known is not claimed."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalog.meta.inconsistency import inconsistency, net_heat
from catalog.meta.network import Study, components, network
from catalog.meta.network_document import analyse, document, verdict
from catalog.meta.network_studies import Arm, Contrast, StudyError, from_contrasts, from_counts
from catalog.meta.ranking import leader, p_scores, ranks
from catalog.meta.splitting import splits
from catalog.problems import RefusedError

NAMES = ("sft", "a", "b", "c", "d")
seeds = st.integers(0, 2**31)
few = settings(deadline=None, max_examples=25)


def made(seed: int, *, two_arms: bool = False, k: int = 12) -> list[Study]:
    """Random connected studies of two to four arms."""
    rng = np.random.default_rng(seed)
    arms = []
    for number in range(k):
        size = 2 if two_arms or number < 4 else int(rng.integers(2, 5))
        names = ["sft", NAMES[number + 1]] if number < 4 else list(rng.choice(NAMES, size, replace=False))
        arms += [Arm("", f"s{number}", n, float(rng.integers(0, 101)), 100.0, f"m{number % 3}") for n in names]
    return from_counts(arms, "RD")[0]


def turned(study: Study, order: np.ndarray, factor: float = 1.0) -> Study:
    treatments = tuple(study.treatments[at] for at in order)
    variances = factor**2 * study.variances[np.ix_(order, order)]
    return Study(study.name, treatments, factor * study.effects[order] + 7, variances, study.cluster)


@few
@given(seeds, st.sampled_from(["common", "DL", "REML"]))
def test_reference_order_and_sign_change_nothing_else(seed: int, method: str) -> None:
    studies = made(seed)
    found = network(studies, "sft", method)
    rng = np.random.default_rng(seed + 1)
    shuffled = [turned(studies[at], rng.permutation(len(studies[at].treatments)), -1) for at in rng.permutation(12)]
    other = network(shuffled, "c", method)
    order = [other.treatments.index(name) for name in found.treatments]
    assert other.tau2 == pytest.approx(found.tau2, rel=1e-6, abs=1e-9)
    assert other.q == pytest.approx(found.q, rel=1e-8)
    assert -other.estimate[np.ix_(order, order)] == pytest.approx(found.estimate, abs=1e-7)
    assert other.se[np.ix_(order, order)] == pytest.approx(found.se, rel=1e-6)
    ours, theirs = p_scores(found, "smaller"), p_scores(other, "larger")
    assert theirs == pytest.approx(ours, abs=1e-6)
    assert np.mean(list(ours.values())) == pytest.approx(0.5)
    before, after = inconsistency(studies, found), inconsistency(shuffled, other)
    assert after.between.q == pytest.approx(before.between.q, rel=1e-6, abs=1e-8)


@few
@given(seeds)
def test_two_arm_networks_are_weighted_least_squares(seed: int) -> None:
    studies = made(seed, two_arms=True)
    found = network(studies, "sft", "DL")
    x = np.array(
        [[(n == s.treatments[0]) - float(n == s.treatments[1]) for n in found.treatments[1:]] for s in studies]
    )
    y = np.array([s.effects[0] - s.effects[1] for s in studies])
    v = np.array([s.variances[0, 1] for s in studies])

    def solve(tau2: float) -> tuple[np.ndarray, np.ndarray]:
        covariance = np.linalg.inv(x.T @ np.diag(1 / (v + tau2)) @ x)
        return covariance @ x.T @ (y / (v + tau2)), covariance

    beta, covariance = solve(0.0)
    residuals = y - x @ beta
    q = float(residuals**2 @ (1 / v))
    hat = x @ covariance @ x.T @ np.diag(1 / v)
    tau2 = max(0.0, (q - len(y) + 4) / np.trace((np.eye(len(y)) - hat) @ np.diag(1 / v)))
    assert (found.q, found.tau2) == pytest.approx((q, tau2), rel=1e-8)
    beta, covariance = solve(tau2)
    assert found.theta[1:] == pytest.approx(beta, rel=1e-8, abs=1e-10)
    assert found.covariance[1:, 1:] == pytest.approx(covariance, rel=1e-8)


@few
@given(seeds)
def test_multi_arm_studies_are_generalised_least_squares(seed: int) -> None:
    """The adjusted weights against the full covariance of contrasts with each study's first arm."""
    studies = made(seed)
    found = network(studies, "sft", "common")
    x, y, blocks = [], [], []
    for s in studies:
        arm = [(s.variances[0, 1] + s.variances[0, j] - s.variances[1, j]) / 2 for j in range(2, len(s.treatments))]
        base = arm[0] if arm else 0.0
        rows = range(1, len(s.treatments))
        block = np.array(
            [[(s.variances[0, i] + s.variances[0, j] - s.variances[i, j]) / 2 for j in rows] for i in rows]
        )
        assert not arm or block[0, 1] == pytest.approx(base)
        blocks.append(block)
        for i in rows:
            x.append([(n == s.treatments[i]) - float(n == s.treatments[0]) for n in found.treatments[1:]])
            y.append(s.effects[i] - s.effects[0])
    full = np.zeros((len(y), len(y)))
    at = 0
    for block in blocks:
        full[at : at + len(block), at : at + len(block)] = block
        at += len(block)
    design, weight = np.array(x), np.linalg.inv(full)
    covariance = np.linalg.inv(design.T @ weight @ design)
    assert found.theta[1:] == pytest.approx(covariance @ design.T @ weight @ np.array(y), rel=1e-7, abs=1e-9)
    assert found.covariance[1:, 1:] == pytest.approx(covariance, rel=1e-7)


@few
@given(seeds)
def test_net_heat_adds_up_and_detaching_is_refitting(seed: int) -> None:
    studies = made(seed)
    found = network(studies, "sft", "common")
    tested, heat = inconsistency(studies, found), net_heat(studies, found, 0.0)
    assert heat.share.sum() == pytest.approx(tested.between.q, rel=1e-7, abs=1e-8)
    for number, name in enumerate(heat.designs):
        rest = [study for study in studies if " : ".join(study.design) != name]
        if len(components(rest)) > 1 or "sft" not in components(rest)[0] or len(components(rest)[0]) < 5:
            continue
        alone = inconsistency(rest, network(rest, "sft", "common"))
        assert heat.share.sum() - heat.change[:, number].sum() == pytest.approx(alone.between.q, rel=1e-6, abs=1e-7)


@few
@given(seeds)
def test_splits_are_uncorrelated_parts_of_the_network_estimate(seed: int) -> None:
    studies = made(seed)
    found = network(studies, "sft", "DL")
    for split in splits(studies, found):
        at = found.treatments.index(split.treat1), found.treatments.index(split.treat2)
        assert 0 < split.share <= 1
        if split.testable:
            mixed = split.share * split.direct + (1 - split.share) * split.indirect
            assert mixed == pytest.approx(float(found.estimate[at]), abs=1e-9)
            assert 1 / split.direct_se**2 + 1 / split.indirect_se**2 == pytest.approx(
                float(found.se[at]) ** -2, rel=1e-6
            )


def star(k: int = 1) -> list[Study]:
    names = ("a", "b", "c")
    arms = [
        Arm("", f"{name}{number}", treatment, count + 3.0 * number, 100.0)
        for name, count in zip(names, (20, 30, 60), strict=True)
        for number in range(k)
        for treatment, count in (("sft", 50), (name, count))
    ]
    return from_counts(arms, "RD")[0]


def test_a_star_is_not_testable_and_never_called_consistent() -> None:
    analysis = analyse(star(2), "sft", "RD", "REML", "smaller")
    said = document(analysis)
    assert verdict(analysis.inconsistency) == said["inconsistency"]["verdict"] == "not testable"
    assert said["inconsistency"]["df"] == 0
    assert said["inconsistency"]["p"] is None
    assert not any(split["testable"] for split in said["splits"])
    assert said["net_heat"] is None
    assert any("not testable" in note and "star" in note for note in said["notes"])


def test_complete_multi_arm_studies_are_not_testable() -> None:
    rng = np.random.default_rng(3)
    arms = [Arm("", f"s{s}", name, float(rng.integers(5, 90)), 100.0) for s in range(5) for name in NAMES]
    analysis = analyse(from_counts(arms, "RD")[0], "sft", "RD", "REML", "smaller")
    assert not analysis.inconsistency.testable
    assert not any(split.testable for split in analysis.splits)


def test_one_study_of_two_arms() -> None:
    analysis = analyse(star()[:1], "sft", "RD", "REML", "smaller")
    effect = document(analysis)["effects"]["a"]["sft"]
    assert effect["estimate"] == pytest.approx(-0.3)
    assert effect["pi_low"] is None
    assert (analysis.found.tau2, analysis.found.q, analysis.found.i2) == (0, 0, 0)
    assert analysis.inconsistency.total.df == 0


def test_disconnected_networks_are_refused_by_component() -> None:
    arms = [
        Arm("", s, t, 10, 50) for s, t in (("1", "sft"), ("1", "a"), ("2", "b"), ("2", "c"), ("3", "c"), ("3", "d"))
    ]
    with pytest.raises(RefusedError, match=r"2 components.*component 1: b, c, d; component 2: a, sft"):
        analyse(from_counts(arms, "RD")[0], "sft", "RD", "REML", "smaller")


def test_ranks_are_those_of_the_estimates_and_no_winner_is_named_within_the_noise() -> None:
    clear = network(star(3), "sft", "common")
    places = ranks(clear, "smaller")
    assert places["a"].median == 1
    assert sum(rank.best for rank in places.values()) == pytest.approx(1)
    assert ranks(network(star(3), "b", "common"), "smaller") == {name: places[name] for name in ("b", "a", "c", "sft")}
    noisy = from_counts(
        [Arm("", s, t, k, 20) for s, t, k in (("1", "sft", 8), ("1", "a", 7), ("2", "sft", 8), ("2", "b", 6))], "RD"
    )
    assert leader(network(noisy[0], "sft", "common"), "smaller").startswith("no winner: ")
    assert leader(clear, "smaller").startswith("no winner: ") == bool(clear.interval()[1][1, 2] >= 0)


def test_a_winner_is_apart_from_every_other_treatment_not_only_from_the_second() -> None:
    """Far more is known of b than of c, which comes third and may yet be better than a."""
    known = [Contrast("", "1", "a", "sft", -0.5, 1e-4), Contrast("", "2", "b", "sft", -0.4, 1e-4)]
    vague = Contrast("", "3", "c", "sft", -0.1, 0.16)
    for rows, says in ((known, "a ranks first: "), ([*known, vague], "no winner: the interval of a ")):
        found = network(from_contrasts(rows)[0], "sft", "common")
        assert sorted(p_scores(found, "smaller"), key=p_scores(found, "smaller").get, reverse=True)[:2] == ["a", "b"]
        assert leader(found, "smaller").startswith(says)
    assert leader(found, "smaller").endswith("minus c includes 0")


def test_leaving_out_clusters_names_what_disappears() -> None:
    studies = [Study(s.name, s.treatments, s.effects, s.variances, s.name[0]) for s in star(2)]
    analysis = analyse(studies, "sft", "RD", "REML", "smaller")
    left = {entry.cluster: entry for entry in analysis.left_out or ()}
    assert set(left) == {"a", "b", "c"}
    assert left["a"].missing == ("a",)
    assert set(left["a"].p_scores) == {"sft", "b", "c"}
    assert any("first place depends on the clusters" in note for note in analysis.notes)
    two = [Study(s.name, s.treatments, s.effects, s.variances, str(s.name == "a0")) for s in star(2)]
    assert any("no general claim" in note for note in analyse(two, "sft", "RD", "REML", "smaller").notes)


def test_zero_cells_keep_contrasts_of_a_study_consistent() -> None:
    arms = [Arm("", "1", "sft", 9, 20), Arm("", "1", "a", 0, 20), Arm("", "1", "b", 3, 20)]
    arms += [Arm("", "2", "sft", 0, 20), Arm("", "2", "a", 0, 20)]
    studies, notes = from_counts(arms, "OR")
    assert [study.name for study in studies] == ["1"]
    assert studies[0].effects == pytest.approx([np.log(9.5 / 11.5), np.log(0.5 / 20.5), np.log(3.5 / 17.5)])
    assert "excluded" in notes[1]
    risks, _ = from_counts(arms, "RD")
    p, q = 9.5 / 21, 0.5 / 21
    assert risks[0].effects == pytest.approx([0.45, 0, 0.15])
    assert risks[0].variances[0, 1] == pytest.approx(p * (1 - p) / 21 + q * (1 - q) / 21)


def test_contrasts_and_arms_of_the_same_study_agree() -> None:
    study = from_counts([Arm("", "1", name, k, 100) for name, k in (("sft", 60), ("a", 30), ("b", 20))], "RD")[0][0]
    pairs = [
        Contrast("", "1", study.treatments[i], study.treatments[j], study.effects[i] - study.effects[j], v)
        for i, j in ((0, 1), (2, 0), (1, 2))
        for v in [float(study.variances[i, j])]
    ]
    other = from_contrasts(pairs)[0][0]
    ours, theirs = (network([each], "sft", "common") for each in (study, other))
    assert theirs.estimate == pytest.approx(ours.estimate)
    assert theirs.se == pytest.approx(ours.se)
    with pytest.raises(StudyError, match="no contrast of"):
        from_contrasts(pairs[:2])
    with pytest.raises(StudyError, match="twice"):
        from_contrasts([*pairs, pairs[0]])
    wrong = Contrast("", "1", "sft", "a", -0.3, pairs[0].variance)
    with pytest.raises(StudyError, match="do not add up"):
        from_contrasts([wrong, *pairs[1:]])
    with pytest.raises(StudyError, match="contradict"):
        from_contrasts([Contrast("", "1", "sft", "a", 0.3, 9.0), *pairs[1:]])


def test_two_hundred_arms_take_less_than_a_second() -> None:
    rng = np.random.default_rng(0)
    arms = []
    for s in range(80):
        who = (0, s + 1) if s < 59 else rng.choice(60, 4, replace=False)
        arms += [Arm("", f"s{s}", f"t{t:02d}", float(rng.integers(5, 150)), 200.0) for t in who if t < 60]
    assert len(arms) > 200
    studies = from_counts(arms, "RD")[0]
    started = time.process_time()
    document(analyse(studies, "t00", "RD", "REML", "smaller"))
    assert time.process_time() - started < 1
