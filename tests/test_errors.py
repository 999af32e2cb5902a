"""Every error of the domain has its status on both doors."""

from gateway import errors as rest
from luna_grpc import errors
from luna_grpc.rpc import errors as rpc


def every_error() -> list[type[errors.LunaError]]:
    """Return the errors of the domain, those derived from others too."""
    found = list(errors.LunaError.__subclasses__())
    for cls in found:
        found += cls.__subclasses__()
    return found


def test_both_tables_are_complete() -> None:
    """A new error without a row fails here."""
    assert set(rpc.STATUS) == set(rest.STATUS) == set(every_error())


def test_the_code_is_the_name_of_the_grpc_status() -> None:
    """So REST clients read the same word."""
    for cls, status in rpc.STATUS.items():
        assert cls.code == status.name


def test_a_derived_error_is_looked_up_through_its_bases() -> None:
    """Nobody has to touch the tables for it."""

    class TooManyError(errors.ResourceExhaustedError):
        """An error that the tables do not name."""

    error = TooManyError("too many")
    assert rpc.status_code(error).name == "RESOURCE_EXHAUSTED"
    assert (rest.status(error), rest.body(error)) == (429, {"error": "too many", "code": "RESOURCE_EXHAUSTED"})
    del error, TooManyError


def test_a_field_is_called_as_the_json_calls_it() -> None:
    """Not as the model does."""
    body = rest.body(errors.InvalidArgumentError("wrong", field="weight"))
    assert body == {"error": "wrong", "code": "INVALID_ARGUMENT", "field": "balancerOptions.weight"}


def test_each_door_says_how_to_put_it_right_there() -> None:
    """REST speaks of curl and POST; the domain, which gRPC clients hear too, of neither."""
    missing = errors.NotRegisteredError("a:b:1 is not registered; register it first")
    assert rest.body(missing)["error"] == "a:b:1 is not registered; register it first: POST it"
    assert rest.body(errors.NoCredentialsError("use Basic auth"))["error"] == "use Basic auth, for example curl -u NAME:PASSWORD"
    assert rest.body(errors.NotFoundError("gone"))["error"] == "gone"
