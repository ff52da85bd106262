"""TAR: gradients at attacked weights, added up over a trajectory and applied where the attack began."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from reproduce.api import sft_step
from reproduce.papers import p2408_00761_tar as paper
from reproduce.papers.p2408_00761_tar import Tar, hidden_states, mean_entropy
from reproduce.protocol import MICRO, Lora
from reproduce.stages import Stages
from reproduce.state import Batch, State
from reproduce.testbeds.micro import Micro

ONE = torch.ones(1, 1)
BATCH = Batch([], ONE, ONE, ONE)


class Point(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([2.0]))


class PointState(State):
    """The attacker's loss is (theta - 5)^2 / 2."""

    def loss(self, batch: Batch, *, each: bool = False) -> Tensor:
        del batch, each
        loss: Tensor = ((self.model.theta - 5) ** 2).sum() / 2
        return loss

    def draw(self, stream: str, count: int) -> Batch:
        assert stream in ("tar attack", "tar healing")
        del count
        return BATCH

    def adapters(self) -> dict[str, Any]:
        return {}


class PointTar(Tar):
    """Tamper resistance theta^2 / 2, retain loss (theta - 1)^2 / 2."""

    def resistance(self, s: State) -> Callable[[], Tensor]:
        return lambda: (s.model.theta**2).sum() / 2

    def retain(self, s: State, batch: Batch) -> Tensor:
        del batch
        loss: Tensor = ((s.model.theta - 1) ** 2).sum() / 2
        return loss


FIELDS: dict[str, Any] = {"rates": (0.1,), "inner_steps": 2, "every": 1, "span": 2 * 0.0625, "lambda_tr": 4.0}
POINT = PointTar(**FIELDS)


class AtTheStart(PointTar):
    """Takes each gradient at the weights before the attack."""

    moves = False

    def attack(self, s: State, attack: int) -> Iterator[int]:
        before = s.snapshot()
        for k in super().attack(s, attack):
            after = s.snapshot()
            s.restore(before)
            yield k
            s.restore(after)
            before = after if self.moves else before


class BeforeTheStep(AtTheStart):
    """Takes each gradient before the attack step instead of after it."""

    moves = True


class WithoutDecay(PointTar):
    def attack(self, s: State, attack: int) -> Iterator[int]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(paper, "ATTACKER_DECAY", 0.0)
            yield from super().attack(s, attack)


class OneOptimiser(PointTar):
    """Keeps AdamW's state from one simulated attack to the next."""

    def attack(self, s: State, attack: int) -> Iterator[int]:
        kept = s.memo.setdefault("kept", torch.optim.AdamW(s.params(), lr=0.1, weight_decay=0.01))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.optim, "AdamW", lambda *args, **kwargs: kept)
            yield from super().attack(s, attack)


@pytest.fixture
def point() -> PointState:
    memo: dict[str, Any] = {"history": defaultdict(list), "mechanisms": {}}
    return PointState(Point(), None, None, 0, memo=memo, steps=1)  # type: ignore[arg-type]


def steps_of(method: Tar, s: State) -> Iterator[float]:
    for _ in method.attack(s, 0):
        yield s.model.theta.item()


def test_example_of_the_dossier(point: PointState) -> None:
    assert list(steps_of(POINT, point)) == pytest.approx([2.098, 2.195802], abs=1e-6)
    point.restore([torch.tensor([2.0])])
    assert [POINT.weight(k) for k in (1, 2)] == pytest.approx([0.939413, 1.0], abs=1e-6)
    assert POINT.tampering(point)[0].item() == pytest.approx(16.666761, abs=1e-4)
    assert POINT.align_step(point, BATCH) == 0.5
    assert point.model.theta.item() == 2.0
    assert point.grads()[0].item() == pytest.approx(17.666761, abs=1e-4)


def test_the_dossiers_wrong_gradient_at_the_start(point: PointState) -> None:
    assert AtTheStart(**FIELDS).tampering(point)[0].item() == pytest.approx(15.515305, abs=1e-4)


def test_the_ratio_of_the_two_gradients_is_recorded(point: PointState) -> None:
    POINT.align_step(point, BATCH)
    assert point.memo["mechanisms"]["gradient_ratio_last"] == pytest.approx(16.666761 / 1.0, rel=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_the_simulated_rates_bracket_those_of_the_test_attacks(seed: int, tmp_path: Path) -> None:
    rate = Stages(Micro(), MICRO, seed, tmp_path).learning_rate().info["lr"]
    assert min(Tar().rates) <= rate <= max(Tar().rates)


def trajectories(method: Tar, s: State) -> list[float]:
    """Accumulated gradients of the attack from 2 and of the next one, from 8."""
    first = method.tampering(s)[0].item()
    s.restore([torch.tensor([8.0])])
    return [first, method.tampering(s)[0].item()]


RIGHT = [16.666761, 4 * (0.939413 * 7.892 + 7.7842203)]  # from 8: AdamW by hand


def test_next_attack_begins_with_a_fresh_optimiser(point: PointState) -> None:
    assert trajectories(POINT, point) == pytest.approx(RIGHT, abs=1e-4)


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        (BeforeTheStep(**FIELDS), 0),
        (AtTheStart(**FIELDS), 0),
        (WithoutDecay(**FIELDS), 0),
        (OneOptimiser(**FIELDS), 1),
        (PointTar(**FIELDS | {"span": 0.0}), 0),
        (PointTar(**FIELDS | {"every": 2}), 0),
    ],
)
def test_the_example_tells_the_wrong_variants_apart(point: PointState, wrong: Tar, where: int) -> None:
    assert abs(trajectories(wrong, point)[where] - RIGHT[where]) > 1e-2


def test_several_attacks_share_the_weight(point: PointState) -> None:
    two = PointTar(rates=(0.1,), inner_steps=2, every=1, span=0.125, attacks=2)
    assert two.tampering(point)[0].item() == pytest.approx(16.666761, abs=1e-4)  # each begins anew, fresh AdamW


def test_gradients_left_by_someone_do_not_leak(point: PointState) -> None:
    sft_step(point, BATCH)
    assert POINT.tampering(point)[0].item() == pytest.approx(16.666761, abs=1e-4)


def test_weights_of_the_paper_and_of_a_shorter_trajectory() -> None:
    paper = Tar(inner_steps=64)
    used = [paper.weight(k) for k in range(4, 65, 4)]
    assert used[-1] == 1.0
    assert [b / a for a, b in pairwise(used)] == pytest.approx([math.exp(0.0625 * 4)] * 15)
    assert sum(used) == pytest.approx(4.44, abs=5e-3)
    assert 4 * sum(used) == pytest.approx(17.75, abs=2e-2)
    short = Tar().arms()["inner-4"]
    assert [short.weight(k) for k in (1, 2, 3, 4)] == [Tar().weight(k) for k in (4, 8, 12, 16)]


@pytest.fixture
def ready(s: State) -> State:
    s.steps = 10
    Tar().start(s)
    return s


@pytest.fixture
def batch(ready: State) -> Batch:
    return ready.draw("align", 6)


FAST = Tar(rates=(1e-2,), inner_steps=4, every=2)


def test_defender_and_simulated_attacker_share_no_prompt(ready: State) -> None:
    attack = {e.prompt for e in ready.streams["tar attack"].take(32)}
    held_out = {p.prompt for p in ready.streams["tar held-out"].take(8)}
    assert (len(attack), len(held_out)) == (32, 8)
    pools = ready.pools
    assert not attack & held_out
    forbidden = {e.prompt for e in [*pools.harmful_validation, *pools.harmful_test]}
    assert not (attack | held_out) & (forbidden | {p.prompt for p in pools.attack_harmful})


def test_one_held_out_batch_a_trajectory_after_every_s_th_attack_step(
    ready: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Any] = []
    logits = State.logits

    def watch(s: State, batch: Batch, under: Any = None) -> Tensor:
        kinds = {e.kind for e in batch.examples}
        events.append(tuple(batch.examples) if "refusal" in kinds else "step")
        return logits(s, batch, under)

    monkeypatch.setattr(State, "logits", watch)
    FAST.tampering(ready)
    kinds = ["step" if e == "step" else "held-out" for e in events]
    assert kinds == ["held-out", "step", "step", "held-out", "step", "step", "held-out"]  # the first: initial weights
    assert len({e for e in events if e != "step"}) == 1


def test_everything_comes_back_and_nothing_is_left(
    ready: State, batch: Batch, hooks_of: Callable[[Any], list[str]]
) -> None:
    kept = ready.snapshot()
    FAST.align_step(ready, batch)
    assert all(torch.equal(p, w) for p, w in zip(ready.params(), kept, strict=True))
    assert all(torch.equal(p, w) for p, w in zip(ready.memo["initial"].values(), kept, strict=True))
    assert not any(w.requires_grad for w in ready.memo["initial"].values())
    assert hooks_of(ready.model) == []


def test_retain_gradient_is_added_to_the_accumulated_one(fresh: Callable[[], State]) -> None:
    parts = []
    for which in ("both", "tampering", "retain"):
        s = fresh()
        s.steps = 10
        FAST.start(s)
        batch = s.batch(s.pools.alignment[:6])
        if which == "both":
            FAST.align_step(s, batch)
        elif which == "retain":
            s.backward(FAST.retain(s, batch))
        parts.append(FAST.tampering(s) if which == "tampering" else s.grads())
    for both, tampering, retain in zip(*parts, strict=True):
        torch.testing.assert_close(both, tampering + retain)


@pytest.mark.parametrize("objective", ["dpo", "entropy"])
def test_without_both_terms_the_gradient_is_plain(ready: State, batch: Batch, objective: Any) -> None:
    sft_step(ready, batch)
    plain = ready.grads()
    ready.clear_grads()
    Tar(lambda_tr=0.0, hidden=0.0, objective=objective).align_step(ready, batch)
    assert all(torch.equal(a, b) for a, b in zip(ready.grads(), plain, strict=True))


def test_a_third_of_the_attacks_heal_first(ready: State, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    monkeypatch.setattr("reproduce.papers.p2408_00761_tar.sft_step", lambda s, batch: 0.0)
    monkeypatch.setattr(ready, "draw", lambda stream, count: drawn.append(stream))
    healing = []
    for ready.step in range(300):
        drawn.clear()
        list(Tar().attack(ready, 0))
        healing.append(drawn.count("tar healing"))
        assert drawn == ["tar healing"] * healing[-1] + ["tar attack"] * (16 - healing[-1])
    lengths = [n for n in healing if n]
    assert len(lengths) / 300 == pytest.approx(1 / 3, abs=0.1)
    assert sum(lengths) / len(lengths) == pytest.approx(16 * 6 / 9 - 0.5, abs=1.0)  # Beta(6, 3), rounded down


@pytest.mark.parametrize(("adapted", "times"), [(False, 1.0), (True, 5.0)])
def test_all_rates_are_drawn_and_an_adapter_multiplies_them(
    ready: State, monkeypatch: pytest.MonkeyPatch, adapted: bool, times: float
) -> None:
    drawn: list[float] = []
    adamw = torch.optim.AdamW

    def watch(params: Any, *, lr: float, **rest: Any) -> torch.optim.AdamW:
        drawn.append(lr)
        return adamw(params, lr=lr, **rest)

    monkeypatch.setattr(torch.optim, "AdamW", watch)
    monkeypatch.setattr(paper, "sft_step", lambda s, batch: 0.0)
    if adapted:
        ready.attach_adapter(Lora(rank=2, alpha=2), "align")
    for ready.step in range(60):
        list(Tar(inner_steps=1).attack(ready, 0))
    counts = [sum(lr == pytest.approx(times * rate) for lr in drawn) for rate in (2e-5, 4e-5, 8e-5)]
    assert sum(counts) == 60
    assert min(counts) > 10


# losses


def sequence_logprob(s: State, prompt: Any) -> Tensor:
    """Log-probability of an example's answer, one row and no padding."""
    row = s.batch([prompt])
    logits = s.model(input_ids=row.ids).logits[0].double().log_softmax(-1)
    positions = row.answer[0].nonzero().flatten()
    logprob: Tensor = logits[positions - 1, row.ids[0, positions]].sum()
    return logprob


def test_dpo_against_log_probabilities_row_by_row(ready: State) -> None:
    pairs = ready.streams["tar held-out"].take(8)  # all there are: the next eight are the same
    margins = [sequence_logprob(ready, p.safe()) - sequence_logprob(ready, p.harmful()) for p in pairs]
    loss = Tar(beta=0.3).resistance(ready)
    with torch.no_grad():
        for p in ready.params():
            p.mul_(1.03)
    moved = [sequence_logprob(ready, p.safe()) - sequence_logprob(ready, p.harmful()) for p in pairs]
    wanted = sum(math.log(1 + math.exp(-0.3 * (b - a).item())) for a, b in zip(margins, moved, strict=True)) / 8
    assert loss().item() == pytest.approx(wanted, rel=1e-3)


def test_dpo_starts_at_ln_2_and_wants_refusals(ready: State) -> None:
    resistance = Tar().resistance(ready)
    assert resistance().item() == pytest.approx(math.log(2), rel=1e-6)
    attack = torch.optim.SGD(ready.params(), lr=1e-2)
    sft_step(ready, ready.batch([p.harmful() for p in ready.pools.defender_harmful[-8:]]))
    attack.step()
    assert resistance().item() > math.log(2)


def test_entropy_is_ln_v_for_uniform_predictions_and_ignores_padding(ready: State) -> None:
    examples = [p.harmful() for p in ready.pools.defender_harmful[:2]]
    alone = [mean_entropy(ready, ready.batch([e])) * int(ready.batch([e]).real.sum()) for e in examples]
    batch = ready.batch(examples)
    assert mean_entropy(ready, batch).item() == pytest.approx(
        sum(a.item() for a in alone) / int(batch.real.sum()), rel=1e-4
    )
    with torch.no_grad():
        for p in ready.params():
            p.zero_()
    vocabulary = ready.model.config.vocab_size
    assert mean_entropy(ready, batch).item() == pytest.approx(math.log(vocabulary), rel=1e-6)
    loss = Tar(objective="entropy").resistance(ready)()
    assert loss.item() == pytest.approx(-math.log(vocabulary), rel=1e-6)  # minimised: entropy goes up


def test_hidden_states_are_the_embedding_and_every_layer(ready: State, batch: Batch) -> None:
    with hidden_states(ready) as found:
        ready.logits(batch)
    wanted = ready.model(input_ids=batch.ids, output_hidden_states=True).hidden_states
    assert len(found) == len(wanted) == 3
    for a, b in zip(found[:-1], wanted[:-1], strict=True):
        torch.testing.assert_close(a, b)
    torch.testing.assert_close(ready.model.model.norm(found[-1]), wanted[-1])  # ours is before the final norm


def test_retain_is_cross_entropy_plus_unsquared_distance_over_real_tokens(
    ready: State, batch: Batch, fresh: Callable[[], State]
) -> None:
    other = fresh()
    assert Tar().retain(ready, batch).item() == pytest.approx(ready.loss(batch).item(), rel=1e-6)
    with torch.no_grad():
        ready.model.get_input_embeddings().weight.add_(0.5)
    with hidden_states(ready) as now, hidden_states(other) as then:
        ready.logits(batch)
        other.logits(batch)
    rows = [[(a - b)[i, j].norm().item() for i, j in batch.real.nonzero()] for a, b in zip(now, then, strict=True)]
    assert rows[0][0] == pytest.approx(0.5 * 4, rel=1e-4)  # 16 dimensions moved by 0.5: not squared
    wanted = ready.loss(batch) + torch.tensor(rows).mean()
    assert Tar().retain(ready, batch).item() == pytest.approx(wanted.item(), rel=1e-5)


def test_distance_has_a_finite_gradient_where_it_is_zero(ready: State, batch: Batch) -> None:
    ready.backward(Tar().retain(ready, batch))
    assert all(bool(torch.isfinite(g).all()) for g in ready.grads())


def test_mapping_counts_parallel_and_antiparallel_alike_with_one_table(ready: State, batch: Batch) -> None:
    method = Tar(mapping=1.0)
    harmful = ready.draw("tar attack", 8)
    ready.draw = lambda stream, count: harmful  # type: ignore[method-assign]
    loss = method.align_step(ready, batch)
    table = torch.randn((ready.model.config.vocab_size, 16), generator=ready.rng("tar", "random mapping"))
    with hidden_states(ready) as streams:
        ready.logits(harmful)
    cosines = []
    for h in streams:
        for i, j in harmful.real.nonzero():
            a, b = h[i, j], table[harmful.ids[i, j]]
            cosines.append(abs((a @ b / a.norm() / b.norm()).item()))
    wanted = 1 - sum(cosines) / len(cosines) + ready.loss(batch).item()
    assert loss == pytest.approx(wanted, rel=1e-4)
    optimiser = torch.optim.AdamW(ready.params(), lr=1e-2)
    for ready.step in range(8):
        ready.clear_grads()
        method.align_step(ready, batch)
        optimiser.step()
    history = ready.memo["history"]["mapping_cosine"]
    assert history[-1] > history[0] + 0.05


def test_phase_one_takes_its_share_of_the_steps(ready: State, batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    phases: list[int] = []

    def remember(_method: Tar, s: State, _batch: Batch) -> float:
        phases.append(s.step)
        return 0.0

    monkeypatch.setattr(Tar, "mapping_step", remember)
    for ready.step in range(10):
        Tar(mapping=0.25, lambda_tr=0.0).align_step(ready, batch)
    assert phases == [0, 1, 2]


@pytest.mark.parametrize("objective", ["dpo", "entropy"])
def test_descent_on_the_accumulated_gradient_makes_attacked_weights_better(ready: State, objective: Any) -> None:
    method = Tar(rates=(3e-3,), inner_steps=4, every=2, objective=objective)
    optimiser = torch.optim.AdamW(ready.params(), lr=3e-3)
    for ready.step in range(15):
        total = method.tampering(ready)
        for p, g in zip(ready.params(), total, strict=True):
            p.grad = g
        optimiser.step()
    history = ready.memo["history"]["resistance_loss"]
    assert sum(history[-3:]) < sum(history[:3])
