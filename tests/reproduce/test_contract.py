"""What every paper module owes, in form: checked over all that `reproduce.find` lists and over the baselines."""

import inspect
import json
import re
from dataclasses import asdict, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

import pytest
from ruamel.yaml import YAML

from catalog.schema import kind_of_test
from reproduce import find, record
from reproduce.api import Attack, Method, Stage, Study, Threat, with_fields
from reproduce.baselines import NonAligned, Poison, Sft
from reproduce.data import Pools
from reproduce.protocol import MICRO

MODULES = find.modules()
PAPERS = [paper for name in MODULES for paper in find.load_all(name)]
OWNERS = [*PAPERS, Sft(), NonAligned(), Poison()]
DEFENSES = [m for m in PAPERS if isinstance(m, Method)]
METHODS = [*DEFENSES, Sft(), NonAligned()]
ATTACKS = [m for m in PAPERS if isinstance(m, Attack)]
STUDIES = [m for m in PAPERS if isinstance(m, Study)]


def name_of(value: Any) -> str:
    return value.paper if hasattr(value, "paper") else str(value)


@cache
def entries() -> dict[str, Any]:
    document = YAML(typ="safe").load(Path(find.PAPERS).parents[1] / "papers.yaml")
    return {entry["id"]: entry for entry in document["papers"]}


def test_every_kind_is_under_test() -> None:
    assert len(PAPERS) >= len(MODULES) >= 6
    assert DEFENSES
    assert ATTACKS
    assert STUDIES


@pytest.mark.parametrize("name", MODULES)
def test_file_name_slug_and_entry_agree(name: str) -> None:
    entry = entries()[find.load(name).paper]
    assert entry["ids"]["arxiv"] == MODULES[name].arxiv
    assert entry["reproduction"]["module"] == name


MODEL_SIDES = {"method", "sft", "aligned", "non-aligned"}


def claimed_tests(name: str) -> dict[str, dict[str, Any]]:
    """The tests of the claims of a module's entry, by claim."""
    claims = entries()[find.load(name).paper].get("claims", [])
    return {claim["id"]: claim["test"] for claim in claims if "test" in claim}


@pytest.mark.parametrize("name", MODULES)
def test_claims_name_arms_fields_attacks_and_tasks_that_exist(name: str) -> None:
    owners = find.load_all(name)
    arms = MODEL_SIDES.union(*(owner.arms() for owner in owners))
    arms = arms.union(*(owner.sweep() for owner in owners if isinstance(owner, Method)))
    settings = {field.name for owner in owners for field in fields(owner)} | {"ratio"}
    attacks = {attack.paper: attack.arms() for attack in ATTACKS}
    for claim, test in claimed_tests(name).items():
        sides = test.get("contrast", test.get("of", "method")).split(" - ")
        assert {side.removesuffix("@before") for side in sides} <= arms, claim
        assert test.get("over", "ratio") in settings, claim
        paper, _, arm = test.get("attack", "graded").partition(":")
        assert not arm or arm in attacks.get(paper, {}), claim
        assert test.get("task", MICRO.task) in MICRO.tasks, claim


@pytest.mark.parametrize("name", MODULES)
def test_findings_of_claims_are_those_of_the_study(name: str) -> None:
    source = MODULES[name].path.read_text(encoding="utf-8")
    wanted = {test["finding"] for test in claimed_tests(name).values() if kind_of_test(test) == "finding"}
    assert not [finding for finding in wanted if not written(finding, source)]


def written(finding: str, source: str) -> bool:
    """Does the module spell a finding's name, whole or as an arm and what was measured of it?"""
    cuts = [i for i, sign in enumerate(finding) if sign == "_"]
    halves = [(finding[:cut], finding[cut + 1 :]) for cut in cuts]
    return f'"{finding}"' in source or any(f'"{arm}"' in source and f'"{what}"' in source for arm, what in halves)


@pytest.mark.parametrize("method", DEFENSES, ids=name_of)
def test_stage_is_that_of_the_entry(method: Method) -> None:
    assert method.stage is not None
    assert entries()[method.paper]["stage"] == method.stage.value


@pytest.mark.parametrize("owner", OWNERS, ids=name_of)
def test_class_is_a_frozen_dataclass_one_step_below_its_kind(owner: Any) -> None:
    cls = type(owner)
    assert is_dataclass(cls)
    assert cls.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert cls.__bases__ in [(Method,), (Attack,), (Study,)]


@pytest.mark.parametrize("owner", OWNERS, ids=name_of)
def test_fields_are_typed_defaulted_and_json(owner: Any) -> None:
    hints = get_type_hints(type(owner))
    for field in fields(owner):
        assert field.name in hints
        assert field.kw_only
    assert type(owner)() == owner
    plain = json.loads(json.dumps(asdict(owner)))
    assert {k: tuple(v) if isinstance(v, list) else v for k, v in plain.items()} == asdict(owner)
    assert owner.configuration() == {"paper": owner.paper, **asdict(owner)}
    assert isinstance(owner.version, int)


@pytest.mark.parametrize("owner", OWNERS, ids=name_of)
def test_fields_can_be_set_by_text(owner: Any) -> None:
    for field in fields(owner):
        value = getattr(owner, field.name)
        if isinstance(value, int | float | str):
            assert with_fields(owner, {field.name: str(value)}) == owner
        if isinstance(value, tuple) and value:
            assert with_fields(owner, {field.name: ",".join(map(str, value))}) == owner
    with pytest.raises(ValueError, match=f"{owner.paper}: no field nonsense"):
        with_fields(owner, {"nonsense": 1})


@pytest.mark.parametrize("owner", OWNERS, ids=name_of)
def test_arms_are_distinct_configurations(owner: Any) -> None:
    arms = owner.arms()
    assert arms
    assert owner in arms.values()
    keys = {record.canonical(arm.configuration()) for arm in arms.values()}
    assert len(keys) == len(arms)
    assert all(type(arm) is type(owner) for arm in arms.values())
    assert all(re.fullmatch(r"[a-z0-9]+([-=.][a-z0-9]+)*", name) for name in arms)


@pytest.mark.parametrize("name", MODULES)
def test_docstrings_name_the_paper_and_its_section(name: str) -> None:
    paper = find.load(name)
    module = inspect.getmodule(type(paper))
    assert module is not None
    assert f"arXiv {MODULES[name].arxiv}" in (module.__doc__ or "")
    text = type(paper).__doc__ or ""
    assert re.search(r"\b(sec\. \d|Algorithm \d|Table \d|App\. [A-Z]|authors' code|second-hand)", text)
    assert text.split("\n")[0].rstrip().endswith(".")


@pytest.mark.parametrize("method", METHODS, ids=name_of)
def test_who_owns_the_loop_decides_what_applies(method: Method) -> None:
    class WeightsAttack(Poison):
        threat = Threat.WEIGHTS

    assert method.skip(Poison(), adapter=False) is None
    late = method.stage in (Stage.FINE_TUNING, Stage.POST_FINE_TUNING)
    reason = method.skip(WeightsAttack(), adapter=False)
    assert bool(reason) == late
    assert not late or "owns the loop" in (reason or "")


@pytest.mark.parametrize("attack", ATTACKS, ids=name_of)
def test_every_arm_of_an_attack_has_data_and_steps(attack: Attack, pools: Pools) -> None:
    for name, arm in attack.arms().items():
        data = arm.data(pools, 0.1, 1000, "sentiment", 0)
        schedule = arm.schedule(MICRO, len(data), 1e-5)
        assert data, name
        earlier = arm.earlier(MICRO, pools, 0)  # where there is one, the last job may be left out
        assert sum(job.steps for job in (schedule, *(job for _, job in earlier))) > 0, name
        assert arm.data(pools, 0.1, 1000, "sentiment", 0) == data
