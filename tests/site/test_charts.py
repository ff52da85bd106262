import subprocess
import sys

import pytest
from lxml import etree

from catalog import charts

ROWS = [
    {"who": who, "group": "stage", "ratio": ratio}
    | {"harmful": value, "harmful_low": value - 5, "harmful_high": value + 5}
    | {"accuracy": 98.0, "accuracy_low": 96.0, "accuracy_high": 99.0}
    for who, values in {"sft": (0, 40), "guard": (0, 20)}.items()
    for ratio, value in zip((0, 10), values, strict=True)
]
DRAWN = {
    "ratio": lambda: charts.over_ratio(ROWS),
    "ladder": lambda: charts.ladder(ROWS[1::2]),
    "ladder with worst": lambda: charts.ladder([*ROWS[1:2], {**ROWS[3], "worst": 90.0}]),
    "trade": lambda: charts.trade(ROWS[1::2]),
    "curves": lambda: charts.curves({"drift": [{"who": "sft", "step": s, "value": 2.0 * s} for s in range(3)]}),
    "study": lambda: charts.study([0, 1], {"safety": [1, 2], "skill": [2, 1]}, "distance", "percent"),
}


@pytest.mark.parametrize("name", DRAWN)
@pytest.mark.parametrize("scheme", charts.SCHEMES)
def test_equal_charts_give_equal_bytes_whatever_was_drawn_before(name, scheme):
    first = charts.svg(DRAWN[name](), scheme)
    for other in DRAWN.values():
        charts.svg(other(), scheme)
    assert charts.svg(DRAWN[name](), scheme) == first


def test_a_fresh_process_draws_the_same_bytes():
    code = (
        "from catalog import charts; import sys;"
        "sys.stdout.write(charts.svg(charts.study([0, 1], {'a': [1, 2]}, 'x', 'y'), 'light'))"
    )
    drawn = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert drawn == charts.svg(charts.study([0, 1], {"a": [1, 2]}, "x", "y"), "light")


@pytest.mark.parametrize("name", DRAWN)
def test_charts_fit_a_phone_and_have_no_background(name):
    drawing = etree.fromstring(charts.svg(DRAWN[name](), "dark").encode())
    assert float(drawing.get("width")) <= 480
    assert "white" not in {element.get("fill") for element in drawing.iter()}


def test_intervals_and_values_are_drawn_at_their_place():
    drawing = etree.fromstring(charts.svg(charts.trade(ROWS[1::2]), "light").encode())
    labels = [mark.get("aria-label") or "" for mark in drawing.iter()]
    assert any("harmful score (%): 40" in label and "accuracy (%): 98" in label for label in labels)
    assert any("harmful_low: 35" in label and "harmful_high: 45" in label for label in labels)


def test_worst_cases_are_hollow_and_only_where_there_is_one():
    drawing = etree.fromstring(charts.svg(DRAWN["ladder with worst"](), "light").encode())
    marks = [m for m in drawing.iter() if "worst" in (m.get("aria-label") or "")]
    hollow = [m for m in marks if m.get("aria-roledescription") == "point"]
    assert ["90" in m.get("aria-label") and "guard" in m.get("aria-label") for m in hollow] == [True]
    assert hollow[0].get("fill") in ("transparent", "none", None)
    plain = charts.svg(DRAWN["ladder"](), "light")
    assert "worst" not in plain


def luminance(colour):
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(("scheme", "background"), [("light", "#ffffff"), ("dark", "#1e2129")])
def test_colours_stand_out_from_their_background(scheme, background):
    known = charts.SCHEMES[scheme]
    for colour, least in ((known.text, 7), *((colour, 4.5) for colour in known.series)):
        pair = sorted((luminance(colour), luminance(background)))
        assert (pair[1] + 0.05) / (pair[0] + 0.05) >= least, colour
