"""A registry as people have it: none, a few or 5,000 services, with all that may happen to an instance."""

from luna_grpc.access import Role, User
from luna_grpc.model import ITSELF, Actor, Door, Info, Status, StatusReason
from luna_grpc.registry import Registry

ALICE = Actor(User("alice", Role.ADMIN), Door.REST)
MANY = 5000


async def a_few(registry: Registry) -> None:
    """Register five instances: up, down for each reason, drained; and one that has left."""
    for instance_id, status in (
        ("orders:h:1", Status.OK),
        ("orders:h:2", Status.OK),
        ("orders:h:3", Status.OK),
        ("billing:h:1", Status.DOWN),
        ("mail:h:1", Status.OK),
        ("mail:h:2", Status.OK),
    ):
        name = instance_id.partition(":")[0]
        info = Info.of(instance_id, version="1.0.0", description=f"The {name} service", metadata={"zone": "eu-1"})
        await registry.register(info, status, actor=ALICE)
    await registry.drain("orders:h:2", 3600, actor=ALICE)
    await registry.store.end([registry.get("mail:h:1")], StatusReason.LEASE_EXPIRED, now=0, actor=ITSELF)
    await registry.deregister("orders:h:3", actor=ALICE)


async def many(registry: Registry) -> None:
    """Register 5,000 services of three instances, one of which is down."""
    for number in range(3 * MANY):
        name = f"service-{number % MANY:04}"
        status = Status.DOWN if number == 2 * MANY + 1234 else Status.OK
        info = Info.of(f"{name}:10.0.0.{number // MANY}:80", version="1.0.0", description=f"The {name}", metadata={"zone": "eu-1"})
        await registry.register(info, status, actor=ALICE)
