"""Which of two forms of an answer a client wants: a page or JSON, and of metrics text or OpenMetrics (RFC 9110, section 12.5.1)."""

from typing import Final

from aiohttp import web

_HTML: Final = ("text/html", "text/*", "*/*")
_JSON: Final = ("application/json", "application/*", "*/*")
_OPENMETRICS: Final = ("application/openmetrics-text",)
_TEXT: Final = ("text/plain", "text/*", "*/*")


def prefers_html(request: web.Request) -> bool:
    """Whether a client asks for a page by name, as browsers do."""
    accept = request.headers.get("Accept", "").lower()
    return "text/html" in accept and not prefers_json(request)


def prefers_json(request: web.Request) -> bool:
    """Whether a client wants JSON more than a page; who has no preference does not."""
    weights = _weights(request.headers.get("Accept", "*/*").lower())
    return _quality(weights, _JSON) > _quality(weights, _HTML)


def prefers_openmetrics(request: web.Request) -> bool:
    """Whether a client asks for metrics as OpenMetrics by name, and wants that more than plain text."""
    weights = _weights(request.headers.get("Accept", ""))
    return _quality(weights, _OPENMETRICS) > _quality(weights, _TEXT)


def _weights(accept: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for part in accept.split(","):
        media_type, *parameters = (piece.strip() for piece in part.split(";"))
        quality = next((parameter[2:] for parameter in parameters if parameter.startswith("q=")), "1")
        try:
            weights[media_type] = float(quality)
        except ValueError:
            weights[media_type] = 0.0
    return weights


def _quality(weights: dict[str, float], forms: tuple[str, ...]) -> tuple[float, int]:
    """Return how much a form of answer is wanted: its weight, and at equal weights how exactly it was named."""
    return next(((weights[form], -place) for place, form in enumerate(forms) if form in weights), (0.0, 0))
