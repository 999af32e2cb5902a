"""The page that says what went wrong, and what to do next."""

from http import HTTPStatus
from typing import Final

from aiohttp import web

from gateway.pages import page

_LIST: Final = "/registry/v1/services/"
_RELOAD: Final = ""
"""As a link: the page that it stands on."""
_ERRORS: Final[dict[int, tuple[str, str, str, str]]] = {
    HTTPStatus.UNAUTHORIZED: (
        "Please sign in",
        "Use the name and the password that Luna was started with (LUNA_AUTH_USERNAME, LUNA_AUTH_PASSWORD).",
        _RELOAD,
        "Sign in",
    ),
    HTTPStatus.FORBIDDEN: ("This is not allowed", "Once that is changed, it will work.", _RELOAD, "Try again"),
    HTTPStatus.NOT_FOUND: (
        "Not found",
        "Everything that is registered is in the list; a service leaves it with its last instance.",
        _LIST,
        "All services",
    ),
    HTTPStatus.TOO_MANY_REQUESTS: ("Too many requests", "Wait for a moment.", _RELOAD, "Try again"),
    HTTPStatus.INTERNAL_SERVER_ERROR: ("Luna failed", "It may work the next time.", _RELOAD, "Try again"),
    HTTPStatus.SERVICE_UNAVAILABLE: ("Luna is not ready", "Wait for a moment.", _RELOAD, "Try again"),
}
"""For each status a title, and one next step: its words, where it leads to, and the words of the link."""
_OF_THE_FILE: Final = "Use the name and the password of a user in the users file; luna user add makes one."
_OTHER_ERROR: Final = ("That did not work", "The panel begins at the list.", _LIST, "All services")


def error_page(status: int, message: str, *, signed_in: bool, users_file: bool = False, form: bool = False) -> web.Response:
    """Show what went wrong, and what to do next; of a `form`, the address that it was sent to cannot be looked at."""
    title, words, href, link = _ERRORS.get(status, _OTHER_ERROR)
    if form and href == _RELOAD:
        href, link = _LIST, "All services"
    if users_file and status == HTTPStatus.UNAUTHORIZED:
        words = _OF_THE_FILE
    return page(
        "error.html",
        status_code=status,
        # To others the style sheet is refused as well, and fetching it would make their browser ask for a password (once more).
        signed_in=signed_in,
        status=status,
        title=title,
        message=_sentence(message),
        step={"words": words, "href": href, "link": link},
    )


def _sentence(words: str) -> str:
    """Make the words of an error, which are written to stand anywhere, stand alone."""
    first = words.partition(" ")[0]
    begin = words if ":" in first else words[:1].upper() + words[1:]  # an id stays as it is
    return begin + ("" if words.endswith((".", "!", "?")) else ".")
