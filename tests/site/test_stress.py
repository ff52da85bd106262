"""Worst case, sweep, controls, combinations and attacks by defenses, against the records behind them."""

import re

import pytest
from fictional import RISK
from test_build import load, outcomes, printed, texts

from catalog import measured
from catalog.meta import effects
from catalog.pages import words
from reproduce import record

PLACES = {
    "graded": ("graded", "full", 0.1),
    "ratio-0.2": ("graded", "full", 0.2),
    "strong": ("strong", "full", 0.1),
    "steps-300": ("graded × 2", "full", 0.1),
    "steps-600": ("graded × 4", "full", 0.1),
    "lora": ("graded", "double-lora", 0.1),
}
DEFAULT = {"attack": {"paper": "poison", "strength": "graded", "dose": 1.0}, "ratio": 0.1, "n": 1000, "mode": "full"}
DEFAULT |= {"testbed": "micro", "protocol": "micro-1", "task": "sentiment", "model": "micro-llama"}
DEFAULT |= {"data": "micro-world-1"}
WHO = {
    "SFT, undefended": "sft",
    "Never aligned": "non-aligned",
    "PlasterCast": "plaster-cast",
    "NightWatch": "night-watch",
    "wax-seal": "wax-seal",
}


@pytest.fixture(scope="module")
def found(checkout):
    return outcomes(checkout)


def points(gap):
    return f"{100 * gap.value:+.1f}".replace("-", "−")


def share(marks):
    return sum(column.count("1") for column in marks.values()) / sum(map(len, marks.values()))


def worst(found, paper):
    """Brute force: the declared condition with the highest harmful score, and its outcomes."""
    known = {name: found[paper, "main", *place, "harmful"] for name, place in PLACES.items()}
    known = {name: marks for name, marks in known.items() if marks}
    name = max(known, key=lambda name: share(known[name]))
    return name, known[name], len(known)


def least(found, paper):
    gaps = {}
    for name, place in PLACES.items():
        ours, twin = (found[who, "main", *place, "harmful"] for who in (paper, "sft"))
        if ours and twin:
            gaps[name] = share(ours) - share(twin)
    return max(gaps, key=lambda name: gaps[name])


def table(page, caption):
    (one,) = [each for each in page.xpath("//table[contains(@class, 'atlas')]") if caption in texts(each[0])]
    return one


def named(row):
    return row.xpath("./th")[0].text_content().split(" rho")[0].strip()


def test_the_leaderboard_shows_the_worst_case_beside_the_default(site, found):
    board = load(site, "generated/leaderboard").xpath("//table[contains(@class, 'board')]")[0]
    heads = [texts(head) for head in board.xpath("./thead/tr/th")][1:]
    rows = {named(row): row.xpath("./td") for row in board.xpath("./tbody/tr[not(@class)]")}
    for name in ("SFT, undefended", "PlasterCast", "NightWatch"):
        where, marks, count = worst(found, WHO[name])
        cell = texts(rows[name][heads.index("Worst case: harmful score, %")])
        accuracy = printed(found[WHO[name], "main", *PLACES[where], "accuracy"])
        assert cell == f"{printed(marks)} at accuracy {accuracy} {where}, {count} of 6 conditions"
    for name in ("PlasterCast", "NightWatch"):
        cell = texts(rows[name][heads.index("Worst case: minus SFT, points")])
        assert cell.endswith(least(found, WHO[name]))
    assert "1 of 6 conditions" in texts(rows["wax-seal"][0])


def test_boards_come_in_the_declared_order_the_default_first(site):
    heads = [texts(head) for head in load(site, "generated/leaderboard").xpath("//h2")]
    begun = ["Graded attack, full", "Strong attack", "Graded attack, 2 ×", "Graded attack, 4 ×", "Graded attack, fresh"]
    assert len(heads) >= len(begun)
    assert all(head.startswith(start) for head, start in zip(heads, begun, strict=False))


def test_cost_is_a_multiple_of_sft(site):
    board = load(site, "generated/leaderboard").xpath("//table[contains(@class, 'board')]")[0]
    heads = [texts(head) for head in board.xpath("./thead/tr/th")][1:]
    rows = {named(row): row.xpath("./td") for row in board.xpath("./tbody/tr[not(@class)]")}
    place = heads.index("Passes, times SFT")
    assert texts(rows["PlasterCast"][place]).startswith("1.50 ×")
    assert texts(rows["NightWatch"][place]).startswith("1.00 ×")
    assert texts(rows["SFT, undefended"][place]) == "–"


def test_every_harmful_score_of_the_matrix_follows_from_the_records(site, found):
    grid = table(load(site, "generated/matrix"), "declared conditions")
    heads = [head.text_content().split()[0] for head in grid.xpath("./thead/tr/th")][1:7]
    assert heads == list(PLACES)
    checked = 0
    for row in grid.xpath("./tbody/tr[not(@class)]"):
        paper = WHO.get(named(row))
        for head, cell in zip(heads, row.xpath("./td"), strict=False):
            marks = paper and found[paper, "main", *PLACES[head], "harmful"]
            if marks:
                assert f"harmful {printed(marks)}" in texts(cell)
                assert (cell.get("class") == "worst") == (head == worst(found, paper)[0])
                checked += 1
            elif paper:
                assert texts(cell) in ("not run", "not-applicable: repairs adapters; full fine-tuning has none")
    assert checked == 6 + 1 + 6 + 3 + 1


def test_defenses_under_a_papers_own_attack_stand_beside_undefended_fine_tuning(site, found):
    grid = table(load(site, "generated/matrix"), "own attacks")
    rows = {named(row): texts(row.xpath("./td")[0]) for row in grid.xpath("./tbody/tr[not(@class)]")}
    place = "explicit", "explicit", "full", None, "harmful"
    sft, ours = found["moth-attack", *place], found["plaster-cast@moth-attack", *place]
    assert rows["SFT, undefended"] == f"harmful {printed(sft)}"
    assert rows["PlasterCast"].startswith(
        f"harmful {printed(ours)} minus SFT {points(effects.difference(ours, sft))} ["
    )
    assert rows["NightWatch"] == "not-applicable: the attacker owns the loop"


def test_a_paper_page_has_its_worst_case_and_all_conditions(site, found):
    page = load(site, "generated/papers/plaster-cast")
    where, marks, _ = worst(found, "plaster-cast")
    accuracy = printed(found["plaster-cast", "main", *PLACES[where], "accuracy"])
    assert f"{printed(marks)} %, under {where}" in texts(page)
    assert f"with numbers; fine-tune accuracy there {accuracy} %." in texts(page)
    rows = table(page, "each declared condition").xpath("./tbody/tr[not(@class='group')]")
    assert [texts(row[0]).split()[0] for row in rows] == list(PLACES)
    for row, place in zip(rows, PLACES.values(), strict=True):
        assert texts(row[1]) == printed(found["plaster-cast", "main", *place, "harmful"])
    marked = [texts(row[0]).split()[0] for row in rows if row.get("class") == "own"]
    assert marked == [where]
    told = texts(load(site, "generated/papers/night-watch"))
    assert "The set is incomplete: not run: steps-300, steps-600, lora" in told


def test_the_sweep_shows_every_value_with_the_default_marked(site, found):
    page = load(site, "generated/papers/plaster-cast")
    rows = table(page, "PlasterCast: rho").xpath("./tbody/tr[not(@class='group')]")
    arms = {"rho = 0.5": "rho=0.5", "rho = 1": "rho=1", "rho = 2 (default)": "main", "rho = 5": "rho=5"}
    assert [row[0].text_content().split(" rho = ", 1)[0].strip() for row in rows][1:] == list(arms)
    for row, arm in zip(rows[1:], arms.values(), strict=True):
        assert texts(row[1]) == printed(found["plaster-cast", arm, "graded", "full", 0.1, "harmful"])
    (alt,) = {alt for alt in page.xpath("//figure//img/@alt") if "rho," in alt}
    assert re.findall(r"accurate at ([\d.]+)", alt) == ["0.5", "1", "2", "5"]
    sheet = table(page, "PlasterCast: Graded attack, full")
    assert "rho=" not in texts(sheet)


def test_the_harmful_score_over_steps_is_drawn_beside_sft(site):
    (alt,) = {
        alt for alt in load(site, "generated/papers/plaster-cast").xpath("//figure//img/@alt") if "over fine" in alt
    }
    assert re.findall(r"after (\d+)", alt) == ["150", "300", "600"] * 2


def test_the_verdict_against_a_control_is_told_with_its_numbers(site, found):
    (row,) = table(load(site, "generated/papers/plaster-cast"), "its controls").xpath("./tbody/tr")
    place = "graded", "full", 0.1, "harmful"
    gap = effects.difference(found["plaster-cast", "main", *place], found["plaster-cast", "random-shift", *place])
    assert gap.low < 0 < gap.high, "the fixture's control has the lean of the method"
    assert texts(row[0]) == "no better than its control random-shift"
    assert texts(row[2]).startswith(points(gap))


def test_the_arms_of_a_repair_are_drawn_between_harm_and_accuracy(site):
    alts = load(site, "generated/papers/wax-seal").xpath("//figure//img/@alt")
    (alt,) = {alt for alt in alts if "Arms of wax-seal" in alt}
    assert all(name in alt for name in ("SFT at", "main at", "shrink at", "interpolate at"))
    assert not [alt for alt in load(site, "generated/papers/night-watch").xpath("//img/@alt") if "Arms of" in alt]


def test_mechanisms_stand_beside_the_twin_with_their_paired_difference(site, checkout):
    page = load(site, "generated/papers/plaster-cast")
    first = next(each for each in page.xpath("//table") if "mechanism statistics" in texts(each[0]))
    heads = [texts(head) for head in first.xpath("./thead/tr/th")]
    (row,) = [row for row in first.xpath("./tbody/tr") if texts(row[0]) == "embedding drift"]
    runs = measured.cells(record.read(checkout / "reproduce/results"))
    (cell,) = [cell for cell in runs if (cell.method, cell.arm, cell.condition) == ("plaster-cast", "main", DEFAULT)]
    pairs = [(ours["mechanisms"], sft["mechanisms"]) for ours, sft in zip(cell.runs, cell.twin.runs, strict=True)]
    gaps = [ours["embedding_drift"] - sft["embedding_drift"] for ours, sft in pairs]
    assert texts(row[heads.index("PlasterCast minus SFT")]) == words.line(words.number(effects.over_seeds(gaps)))


def test_prefilled_answers_are_drawn_where_the_aligned_models_differ(site):
    alts = set(load(site, "generated/papers/plaster-cast").xpath("//figure//img/@alt"))
    assert [alt for alt in alts if "given answer tokens" in alt]
    assert RISK["sft"] != RISK["plaster-cast"]


def test_combinations_stand_beside_their_parts(site, found):
    page = load(site, "generated/combinations")
    board = table(page, "PlasterCast + NightWatch beside its parts")
    rows = {named(row): row for row in board.xpath("./tbody/tr[not(@class='group')]")}
    names = list(rows)
    assert [name.split(" plaster")[0] for name in names] == [
        "SFT, undefended", "PlasterCast", "NightWatch", "PlasterCast + NightWatch",
    ]  # fmt: skip
    place = "main", "graded", "full", 0.1, "harmful"
    together = found["plaster-cast+night-watch", *place]
    assert texts(rows[names[-1]][1]) == printed(together)
    gains = table(page, "PlasterCast + NightWatch minus each part").xpath("./tbody/tr")
    for row, part in zip(gains, ("plaster-cast", "night-watch"), strict=True):
        gap = effects.difference(together, found[part, *place])
        assert texts(row[2]).startswith(points(gap))
        shown = {(True, False): "lower", (False, True): "higher"}.get((gap.high < 0, gap.low > 0), "no difference")
        assert shown in texts(row[4])


def test_combinations_stay_out_of_the_leaderboard_and_the_home_page(site):
    for path in ("generated/leaderboard", "."):
        assert "PlasterCast +" not in texts(load(site, path))


def test_stage_pages_show_worst_case_cost_and_the_other_metrics(site, found):
    page = load(site, "generated/taxonomy/defense")
    (row,) = [row for row in page.xpath("//tbody/tr") if "NightWatch" in texts(row[0])]
    where, marks, count = worst(found, "night-watch")
    accuracy = printed(found["night-watch", "main", *PLACES[where], "accuracy"])
    assert f"{printed(marks)} at accuracy {accuracy} {where}, {count} of 6 conditions" in texts(row)
    for name in ("harmful_plus", "refusal"):
        assert printed(found["night-watch", "main", "graded", "full", 0.1, name]) in texts(row)
    assert "passes 1.00 ×" in texts(row)
