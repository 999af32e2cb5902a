"""Who may do what: one table for both doors, and the services that a user is limited to."""

from dataclasses import dataclass
from typing import Final

from luna_grpc.enums import Word
from luna_grpc.errors import PermissionDeniedError


class Role(Word):
    """What kind of user someone is."""

    READER = "reader"
    WRITER = "writer"
    ADMIN = "admin"


class Action(Word):
    """What someone wants to do; every route and every rpc names one."""

    READ = "read"
    CHANGE = "change"
    OPERATE = "operate"


MAY: Final[dict[Role, frozenset[Action]]] = {
    Role.READER: frozenset({Action.READ}),
    Role.WRITER: frozenset({Action.READ, Action.CHANGE}),
    Role.ADMIN: frozenset({Action.READ, Action.CHANGE, Action.OPERATE}),
}


@dataclass(frozen=True, slots=True)
class User:
    """Someone whose credentials were right."""

    name: str
    role: Role
    prefixes: tuple[str, ...] = ()
    """A writer may change only services whose names begin with one of them; empty: all."""

    def check(self, action: Action) -> None:
        """Let those pass who may do this to something.

        Raises:
            PermissionDeniedError: the role does not allow it.

        """
        if action not in MAY[self.role]:
            needed = " or ".join(role.value for role in Role if action in MAY[role])
            raise PermissionDeniedError(f"the user {self.name!r} has the role {self.role.value}; this takes the role {needed}")

    def covers(self, instance_id: str, name: str) -> bool:
        """Whether an instance of the service `name` is one that the user is not kept from.

        Both names count, the one in the id and that of the service: whoever could choose one of them freely could take over others.
        """
        return not self.prefixes or (instance_id.startswith(self.prefixes) and name.startswith(self.prefixes))

    def check_covers(self, instance_id: str, name: str) -> None:
        """Let those pass who may change this instance.

        Raises:
            PermissionDeniedError: the id or the service begins with none of the user's prefixes.

        """
        if not self.covers(instance_id, name):
            raise PermissionDeniedError(
                f"the user {self.name!r} may only change services whose names begin with {' or '.join(self.prefixes)}; "
                f"{instance_id} of the service {name!r} is none of them"
            )


REGISTRY: Final = User("", Role.ADMIN)
"""The registry itself."""
NOBODY: Final = User("", Role.READER)
"""Whoever asks for what needs no credentials."""
