"""The plan says when everything acts, and refuses what never would."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

from golf.models.configs.families import config_from_dict
from golf.models.registry import build_model
from golf.training.config import Schedule
from golf.training.plan import Machine, PlanError, credible_machines, flops_per_token, plan, plan_steps
from shipped import shipped
from tiny import flat, hybrid, record, recurrent

if TYPE_CHECKING:
    from golf.models.configs.families import ModelConfig

GOOD = Schedule(
    iterations=600,
    budget_seconds=0.0,
    full_depth=4,
    depth_phases=((0.4, 2), (0.65, 3), (1.0, 4)),
    warmdown=0.5,
    snapshot_every=0.02,
    snapshot_below=0.4,
    ema_decay=0.99,
    momentum_warmup_steps=100,
)
SLOW_AND_FAST = (
    Machine("slow", dict.fromkeys((2, 3, 4), 590.0 / 1856.999)),
    Machine("fast", dict.fromkeys((2, 3, 4), 590.0 / 2699.999)),
)


def test_the_default_plan() -> None:
    got = plan(GOOD)
    (case,) = got.cases
    assert case.phases == ((1, 2), (241, 3), (391, 4))
    assert case.warmdown_start == 302  # update 301 still runs at progress 0.5, multiplier 1
    assert case.final_multiplier == pytest.approx(1 / 300)
    assert case.snapshot_steps == tuple(range(492, 601, 12))
    assert case.ema_horizon == pytest.approx(100)
    assert got.warnings == ()
    text = "\n".join(got.lines())
    assert "depth 3 from step 241" in text and "10 snapshots, steps 492 to 600" in text
    json.dumps(got.to_dict())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth_phases": ((0.4005, 2), (0.401, 3), (1.0, 4))}, r"600 steps run at depths \[2, 4\], expected"),
        ({"depth_phases": ((0.4, 2), (1.0, 3))}, r"depth_phases: the last phase has 3 repeats.*end with \[1.0, 4\]"),
        ({"context_phases": ((0.0005, 64), (0.001, 128), (1.0, 256))}, r"contexts \[64, 256\], expected \[64, 128"),
        ({"warmdown": 0.001}, r"warmdown: 0.001 never acts in 600 steps; set it to 0.00333"),
        ({"warmdown": 1.0}, r"warmdown: it acts from step 1; set it to 0.9 or less"),
        ({"warmdown": 0.0}, r"snapshot_below: the multiplier never falls"),
        ({"snapshot_every": 0.7}, r"snapshot_every: 1 snapshot\(s\) in 600 steps.*set it to at most 0.05"),
        ({"qat_below": 0.001}, r"qat.below: 0.001 never acts in 600 steps; raise it to 0.15"),
        ({"qat_below": 1.0, "warmdown": 0.999}, r"qat.below: it acts from step 1; lower it or warmdown"),
        ({"qat_below": 0.2, "warmdown": 0.0, "snapshot_below": 0.0}, r"qat.below: the multiplier never falls"),
        ({"momentum_warmup_steps": 600}, r"momentum_warmup_steps: 600 steps do not end within 600; set it to 150"),
    ],
)
def test_what_never_acts_is_refused_with_its_key(change: dict, message: str) -> None:
    with pytest.raises(PlanError, match=message):
        plan(dataclasses.replace(GOOD, **change))


def test_all_refusals_are_told_at_once() -> None:
    with pytest.raises(PlanError) as caught:
        plan(dataclasses.replace(GOOD, warmdown=0.001, momentum_warmup_steps=700))
    assert all(key in str(caught.value) for key in ("warmdown:", "snapshot_every:", "momentum_warmup_steps:"))


def test_each_system_can_be_switched_off_alone() -> None:
    no_warmdown = {"warmdown": 0.0, "snapshot_below": 0.0}
    for change in (no_warmdown, {"snapshot_below": 0.0}, {"ema_decay": 0.0}, {"qat_below": 0.2}):
        (case,) = plan(dataclasses.replace(GOOD, **change)).cases
        assert case.steps == 600
    (case,) = plan(dataclasses.replace(GOOD, depth_phases=())).cases
    assert case.phases == ((1, 4),)


def test_a_long_average_is_a_warning_that_names_a_decay_that_fits() -> None:
    got = plan(dataclasses.replace(GOOD, ema_decay=0.999))
    assert "three horizons (3000 steps) are longer than the warmdown (299 steps)" in got.warnings[0]
    assert "0.99 fits" in got.warnings[0]


def test_a_timed_plan_fires_on_slow_and_fast_machines_alike() -> None:
    timed = dataclasses.replace(GOOD, budget_seconds=590.0, iterations=20_000, momentum_warmup_steps=500)
    slow, fast = plan(timed, SLOW_AND_FAST).cases
    assert (slow.steps, fast.steps) == (1857, 2700)
    assert (slow.machine, fast.machine) == ("slow", "fast") and slow.seconds == pytest.approx(590.0)
    assert len(slow.snapshot_steps) in (10, 11) and len(fast.snapshot_steps) in (10, 11)
    assert max(slow.final_multiplier, fast.final_multiplier) < 0.01


def test_contexts_and_a_floor_are_planned() -> None:
    changes = {"context_phases": ((0.1, 1024), (1.0, 2048)), "warmdown_floor": 0.1}
    got = plan(dataclasses.replace(GOOD, **changes))
    (case,) = got.cases
    assert case.contexts == ((1, 1024), (61, 2048)) and case.final_multiplier == 0.1
    assert "context of 2048 tokens from step 61" in "\n".join(got.lines())
    timed = dataclasses.replace(GOOD, budget_seconds=590.0, iterations=20_000, momentum_warmup_steps=500, **changes)
    assert {case.final_multiplier for case in plan(timed, SLOW_AND_FAST).cases} == {0.1}  # no unfinished warmdown


def test_a_step_cap_that_wastes_the_budget_is_refused() -> None:
    timed = dataclasses.replace(GOOD, budget_seconds=590.0, iterations=2200)
    with pytest.raises(PlanError, match=r"iterations: 2200 .* with 19% of the budget unused \(fast\).*2700 or more"):
        plan(timed, SLOW_AND_FAST)
    slightly = Machine("slightly", dict.fromkeys((2, 3, 4), 590.0 / 2299.999))
    assert len(plan(timed, (SLOW_AND_FAST[0], slightly)).cases) == 2  # 4 % is tolerated


def test_a_deeper_phase_takes_fewer_steps_of_the_same_budget() -> None:
    timed = dataclasses.replace(GOOD, budget_seconds=100.0, iterations=20_000)
    (case,) = plan(timed, [Machine("one", {2: 0.1, 3: 0.125, 4: 0.25})]).cases
    assert case.phases == ((1, 2), (401, 3), (601, 4))  # 40 s at 0.1, 25 s at 0.125, 35 s at 0.25
    assert case.steps == 740 and case.seconds == pytest.approx(100.0)


def test_a_budget_of_a_few_steps_is_refused() -> None:
    timed = dataclasses.replace(GOOD, budget_seconds=8.0, iterations=20_000, momentum_warmup_steps=0, snapshot_below=0)
    with pytest.raises(PlanError, match=r"warmdown: its last step, of 8 \(slow\), still has multiplier 0.250"):
        plan(timed, [Machine("slow", {2: 1.0, 3: 1.0, 4: 1.0})])


def test_late_qat_is_planned() -> None:
    got = plan(dataclasses.replace(GOOD, qat_below=0.2))
    (case,) = got.cases
    assert (case.qat_start, case.qat_steps) == (542, 59)  # update 541 still has multiplier 0.2
    assert "QAT from step 542, 59 steps" in "\n".join(got.lines()) and got.warnings == ()
    few = plan(dataclasses.replace(GOOD, qat_below=0.1))
    assert "29 steps at quantized weights are few" in few.warnings[0]
    assert plan(GOOD).cases[0].qat_start is None


@pytest.fixture
def four_hours() -> ModelConfig:
    return config_from_dict(shipped("h100x8_4h")["model"])


def test_the_published_step_times_lie_inside(four_hours: ModelConfig) -> None:
    run: Any = {"tokens_per_step": 524_288, "sequence_length": 1024}
    slow, fast = credible_machines(four_hours, 1024, (2, 3, 4, 5), **run, world=8)
    for depth, published in {2: 0.0724, 3: 0.106, 4: 0.1398, 5: 0.1733}.items():  # PR #895, 8 x H100
        assert fast.step_seconds[depth] < published < slow.step_seconds[depth]
    (half, _) = credible_machines(four_hours, 1024, (2,), **run, world=4)
    assert half.step_seconds[2] == pytest.approx(2 * slow.step_seconds[2])


def test_operations_of_a_loop_count_what_is_applied() -> None:
    model = config_from_dict(shipped("record_h100x8_10min")["model"])
    for depth, applications in ((1, 11), (3, 17)):
        wanted = 6 * (applications * (2_883_584 + 2048 * 512) + 8192 * 512)
        assert flops_per_token(model, 8192, depth, 2048) == wanted


@pytest.mark.parametrize(
    ("shape", "twice"),
    [(recurrent(), "blocks."), (flat(), ()), (hybrid(), ()), (record(hash_rows=0), ("blocks.1.", "blocks.2."))],
)
def test_operations_are_those_of_the_matrices_that_a_model_has(shape: dict[str, Any], twice: str | tuple[str]) -> None:
    with torch.device("meta"):
        model = build_model(config_from_dict(shape), 40)
    matrices = {n: p for n, p in model.unique_parameters().items() if model.role(n) in ("attention", "mlp")}
    wanted = sum(p.numel() * (2 if name.startswith(twice) else 1) for name, p in matrices.items())
    assert config_from_dict(shape).applied_weights(2) == wanted


def test_operations_counted_by_hand(four_hours: ModelConfig) -> None:
    width, key = 832, 416
    block = 2 * width * width + 2 * width * key + 4 * width * width
    wanted = 6 * (3 * 2 * block + 1024 * width + 6 * 1024 * width)
    assert flops_per_token(four_hours, 1024, 2, 1024) == wanted


def test_the_repaired_schedule_in_steps_fires() -> None:
    (case,) = plan_steps(2200, 400, 2200).cases
    assert case.warmdown_start == 1802, "update 1801 is the last at the full rate"
    assert case.snapshot_steps == (2100, 2150, 2200) and (case.qat_start, case.qat_steps) == (2100, 101)
    assert case.final_multiplier < 1e-4


@pytest.mark.parametrize("numbers", [(9999, 3000, 2119), (9999, 1000, 2227)])
def test_the_ported_schedules_in_steps_never_fire_and_all_three_systems_are_named(
    numbers: tuple[int, int, int],
) -> None:
    with pytest.raises(PlanError, match=r"(?s)warmdown: .* never acts.*0 snapshot.*qat.below: .* never acts") as caught:
        plan_steps(*numbers)
    assert f"set iterations to the {numbers[2]} steps that are reached" in str(caught.value)


def test_the_repair_fails_on_the_slower_machine() -> None:
    with pytest.raises(PlanError, match="its last step, of 1857 .* still has multiplier 0.952"):
        plan_steps(2200, 400, 1857)


def test_bad_counts_of_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="all must be at least 1 and warmdown at most iterations"):
        plan_steps(100, 101, 50)
