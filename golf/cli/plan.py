"""`golf plan`: before anything is trained, when each system of a preset acts, from the slowest to the fastest machine.

Runs counted in steps have one plan. Runs by wall clock have one per credible machine: a steady one with
`--steps-per-second`, else `--world-size` devices of the H100 class at the least and the greatest share of their peak
that training reaches. What is printed is also stored as JSON, with a picture where matplotlib is installed, and a
refused plan is stored before the command fails.

``--step-based ITERATIONS WARMDOWN REACHABLE`` checks instead a schedule counted in steps, as the scripts of the
competition have them (cosine, averaging below 0.2 every 50 steps, QAT below 0.15), on a machine that makes REACHABLE
steps.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from golf.base.errors import GolfError
from golf.base.files import atomic_file, write_json

if TYPE_CHECKING:
    from golf.training.config import Schedule
    from golf.training.plan import Machine, PlanCase

__all__ = ["add_arguments", "machines_of", "run", "schedule_of"]

DEFAULT_WORLD = 8  # devices of the published wall-clock runs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `golf plan`."""
    parser.add_argument("--preset", default="cpu_small", help="file in conf/preset (default: cpu_small)")
    parser.add_argument("--model", help="file in conf/model (default: the preset's)")
    parser.add_argument("--conf", default="conf", help="folder of the parameter files (default: conf)")
    speed = parser.add_mutually_exclusive_group()
    speed.add_argument("--steps-per-second", type=float, help="updates per second of the machine, at every depth")
    speed.add_argument("--world-size", type=int, help=f"number of H100-class devices (default: {DEFAULT_WORLD})")
    parser.add_argument("--out", default="reports/plan", help="folder of JSON and PNG files (default: reports/plan)")
    parser.add_argument(
        "--step-based", nargs=3, type=int, metavar=("ITERATIONS", "WARMDOWN", "REACHABLE"),
        help="check another script's schedule in steps instead of a preset",
    )  # fmt: skip
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="single values, as in train.warmdown=0.3")


def run(args: argparse.Namespace) -> int:
    """Print, store and check the plan; ``PlanError`` when a configured system would never act."""
    from golf.cli.params import compose
    from golf.training.plan import PlanError, plan, plan_steps, replay

    if args.step_based is not None:
        print("\n".join(plan_steps(*args.step_based).lines()))
        return 0
    values = compose(Path(args.conf), preset=args.preset, model=args.model, overrides=args.overrides)
    schedule, warnings = schedule_of(values)
    machines = machines_of(values, steps_per_second=args.steps_per_second, world_size=args.world_size)
    cases = [replay(schedule, machine) for machine in machines] or [replay(schedule)]
    refusal, lines = None, []
    try:
        planned = plan(schedule, machines)
        lines = planned.lines() + [f"  warning: {text}" for text in warnings]
        warnings += list(planned.warnings)
    except PlanError as error:
        refusal = error
    stored = Path(args.out) / f"{args.preset}.json"
    _store(stored, args.preset, cases, machines, warnings, refusal)
    drawn = _draw(stored.with_suffix(".png"), args.preset, cases)
    print("\n".join([*lines, f"wrote {stored}" + (f" and {drawn}" if drawn else "")]))
    if refusal is not None:
        raise refusal
    return 0


def schedule_of(values: Mapping[str, Any]) -> tuple[Schedule, list[str]]:
    """The schedule of composed parameters, and where QAT's steps are not those of `quantize`.

    Raises ``GolfError`` where QAT's very grid is another.
    """
    from golf.base.params import from_dict
    from golf.models.configs.families import config_from_dict, max_depth
    from golf.training.config import TrainConfig, check_qat, qat_differences

    config = from_dict(TrainConfig, values["train"], where="train")
    check_qat(config.qat, values.get("quantize", {}))
    full = max_depth(config_from_dict(values["model"]))
    return config.schedule(full), qat_differences(config.qat, values.get("quantize", {}))


def machines_of(
    values: Mapping[str, Any], *, steps_per_second: float | None = None, world_size: int | None = None
) -> tuple[Machine, ...]:
    """Credible machines for a run by wall clock, slowest first; none for a run by steps.

    Raises ``GolfError`` when the batch does not divide over ``world_size`` devices, naming the sizes that do.
    """
    from golf.base.params import from_dict
    from golf.models.configs.families import config_from_dict, max_depth
    from golf.training.config import TrainConfig
    from golf.training.plan import Machine, credible_machines

    config = from_dict(TrainConfig, values["train"], where="train")
    if world_size is not None:
        config.check_world(world_size)
    world = world_size or DEFAULT_WORLD
    if config.budget_seconds <= 0:
        return ()
    model, vocab_size = config_from_dict(values["model"]), values["tokenize"]["vocab_size"]
    depths = config.depths(max_depth(model))
    if steps_per_second is not None:
        if not steps_per_second > 0:
            raise GolfError(f"--steps-per-second: found {steps_per_second}, expected more than 0")
        return (Machine(f"{steps_per_second:g} steps/s", dict.fromkeys(depths, 1.0 / steps_per_second)),)
    return credible_machines(
        model, vocab_size, depths, tokens_per_step=config.tokens_per_step, sequence_length=config.attention_length,
        world=world,
    )  # fmt: skip


def _store(
    path: Path,
    preset: str,
    cases: Sequence[PlanCase],
    machines: Sequence[Machine],
    warnings: Sequence[str],
    refusal: ValueError | None,
) -> None:
    import dataclasses

    write_json(
        path,
        {
            "preset": preset,
            "accepted": refusal is None,
            "refusal": str(refusal) if refusal else "",
            "warnings": list(warnings),
            "cases": [dataclasses.asdict(case) for case in cases],
            "step_seconds": {m.name: {str(depth): s for depth, s in m.step_seconds.items()} for m in machines},
        },
    )


def _draw(path: Path, preset: str, cases: Sequence[PlanCase]) -> Path | None:
    """One band per machine: depth phases as blocks, warmdown and QAT as lines, snapshots as ticks."""
    from golf.report.plots import new_figure, save_figure

    try:
        figure = new_figure((9, 1.2 + 0.9 * len(cases)))
    except ModuleNotFoundError:  # matplotlib belongs to an extra
        return None
    axes = figure.subplots()
    shades = {depth: str(0.95 - 0.12 * i) for i, depth in enumerate(sorted({d for c in cases for _, d in c.phases}))}
    for row, case in enumerate(cases):
        ends = [first for first, _ in case.phases[1:]] + [case.steps + 1]
        for (first, depth), end in zip(case.phases, ends, strict=True):
            left, width = (first - 1) / case.steps, (end - first) / case.steps
            axes.barh(row, width, left=left, height=0.5, color=shades[depth], edgecolor="black")
            axes.text(left + width / 2, row, f"depth {depth}", ha="center", va="center", fontsize=8)
        for name, begin, color, height in (
            ("warmdown", case.warmdown_start, "tab:blue", 0.32),
            ("QAT", case.qat_start, "tab:red", 0.40),
        ):
            if begin is not None:
                label = name if row == 0 else None
                axes.plot([begin / case.steps, 1.0], [row + height] * 2, color=color, lw=3, label=label)
        taken = [step / case.steps for step in case.snapshot_steps]
        axes.plot(taken, [row - 0.32] * len(taken), "|", color="tab:green", label="snapshots" if row == 0 else None)
    axes.set_yticks(range(len(cases)), [f"{case.machine or 'by steps'}\n{case.steps} steps" for case in cases])
    axes.set(xlim=(0, 1), ylim=(-0.6, len(cases) - 0.4), xlabel="share of the updates", title=f"plan of {preset}")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
    with atomic_file(path) as temporary:
        save_figure(figure, temporary, "png")
    return path
