"""What goes wrong, and what people do, by the names that a plan has for it."""

from collections.abc import Callable
from random import Random
from typing import TYPE_CHECKING

from tests.simulation.plan import FAULTS_END, Happening
from tests.simulation.registry import FakeRegistry

if TYPE_CHECKING:
    from tests.simulation.world import World


MARKING = frozenset({"operator marks", "operator unmarks"})


def happens(world: "World", one: Happening, chance: Random) -> None:
    """Let it happen now, to a registry drawn at random where it happens to one."""
    world.say(f"happens: {one.what} ({one.lasts} s)")
    able = [one for one in world.registries if one.names.marks] if one.what in MARKING else ()
    registry = chance.choice(able or world.registries)
    if one.what in TO_A_REGISTRY:
        TO_A_REGISTRY[one.what](world, registry, world.now + one.lasts)
    else:
        TO_THE_WORLD[one.what](world, one.lasts)


def _registers(world: "World", registry: FakeRegistry, _: float) -> None:
    if world.app.process is not None:
        registry.put(world.app.registration())


def _operator_lists(world: "World", registry: FakeRegistry, _: float) -> None:
    registry.put(world.app.registration())


def _operator_withdraws(world: "World", registry: FakeRegistry, _: float) -> None:
    del world
    registry.put(None)


def _down(world: "World", registry: FakeRegistry, end: float) -> None:
    del world
    registry.down_until = end


def _hangs(world: "World", registry: FakeRegistry, end: float) -> None:
    del world
    registry.hangs_until = end


def _others_leave(world: "World", registry: FakeRegistry, _: float) -> None:
    del world
    registry.others_count = 0


def _data_gone(world: "World", registry: FakeRegistry, _: float) -> None:
    del world
    registry.lose()


def _operator_marks(world: "World", registry: FakeRegistry, _: float) -> None:
    del world
    registry.set_mark("down")


def _operator_unmarks(world: "World", registry: FakeRegistry, _: float) -> None:
    del world
    registry.set_mark("")


def _vouched_for(world: "World", registry: FakeRegistry, end: float) -> None:
    """Let a registry burn down, and a person vouch for it; it may come back as it was."""
    before, lasts = registry.told, end - world.now
    registry.lose()
    registry.down_until = end
    world.stop_traffic(vouch=(registry.name,))
    if before is not None and world.more_chance.random() < 0.5 and end < FAULTS_END:
        world.timeline.after(lasts, lambda: registry.put(before))


TO_A_REGISTRY: dict[str, Callable[["World", FakeRegistry, float], None]] = {
    "registers again": _registers,
    "operator lists": _operator_lists,
    "operator withdraws": _operator_withdraws,
    "registry down": _down,
    "registry hangs": _hangs,
    "others leave": _others_leave,
    "data gone": _data_gone,
    "operator marks": _operator_marks,
    "operator unmarks": _operator_unmarks,
    "vouched for": _vouched_for,
}


def _agent_dies(world: "World", lasts: float) -> None:
    world.kill_agent(lasts)


def _reboot(world: "World", lasts: float) -> None:
    world.kill_agent(lasts)
    world.app.end_all()
    world.host.reboot()
    world.carried_by_a_wrong_date |= world.host.wall_step != 0
    world.timeline.after(lasts + world.chance.uniform(-0.02, 2.0), world.start_app)


def _app_dies(world: "World", _: float) -> None:
    world.app_dies()


def _disk_full(world: "World", lasts: float) -> None:
    world.full_until = world.now + lasts


def _threads_run_out(world: "World", lasts: float) -> None:
    world.host.threadless_until = world.now + lasts


def _wall_steps(world: "World", _: float) -> None:
    world.carried_by_a_wrong_date |= world.agent_up is None
    world.host.wall_step += world.chance.choice((-5000.0, -1.0, 1.0, 5000.0))


def _start(world: "World", _: float) -> None:
    world.start_traffic()


def _stop(world: "World", _: float) -> None:
    world.stop_traffic()


def _probe_down(world: "World", lasts: float) -> None:
    world.probe.down_until = world.now + lasts


def _unsure(world: "World", lasts: float) -> None:
    world.finder.unsure_until = world.now + lasts


def _notifier_down(world: "World", lasts: float) -> None:
    world.platform.down_until = world.now + lasts


def _frozen(world: "World", lasts: float) -> None:
    world.freeze_agent(lasts)


def _next_version(world: "World", _: float) -> None:
    """Let the app end as it should, which takes its registration along, and the next one begin."""
    if world.app.process is not None:
        for registry in world.registries:
            if registry.how.app_registers:
                registry.put(None)
        world.app.exit("for the next version")
        world.timeline.after(0.3, world.start_app)


TO_THE_WORLD: dict[str, Callable[["World", float], None]] = {
    "agent dies": _agent_dies,
    "reboot": _reboot,
    "app dies": _app_dies,
    "disk full": _disk_full,
    "threads run out": _threads_run_out,
    "wall steps": _wall_steps,
    "start": _start,
    "stop": _stop,
    "probe down": _probe_down,
    "notifier down": _notifier_down,
    "process unsure": _unsure,
    "agent frozen": _frozen,
    "next version": _next_version,
}
