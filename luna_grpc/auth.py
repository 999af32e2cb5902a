"""Basic auth (RFC 7617), the same for both doors."""

import base64
import binascii
import hmac
from typing import Final

from luna_grpc.errors import UnauthenticatedError

CHALLENGE: Final = 'Basic realm="Luna", charset="UTF-8"'
"""The value of `WWW-Authenticate` that goes with a refusal."""

_REFUSAL = "the user name or the password is wrong"


class Authenticator:
    """Knows the one user that the settings name."""

    def __init__(self, username: str, password: str) -> None:
        self._username = username
        self._username_bytes = username.encode()
        self._password_bytes = password.encode()
        credentials = base64.b64encode(self._username_bytes + b":" + self._password_bytes)
        # What nearly every client sends, letter by letter: compared before anything is parsed.
        self._usual_header = b"Basic " + credentials

    def user(self, authorization: str | None) -> str:
        """Return the name of the user whose credentials the header carries.

        Raises:
            UnauthenticatedError: there is no header, it is not Basic auth, or the credentials are wrong.

        """
        if authorization is None:
            raise UnauthenticatedError("no credentials were sent: use Basic auth, for example curl -u admin:")
        header = authorization.encode(errors="surrogateescape")
        if hmac.compare_digest(header, self._usual_header) or self._matches(header):
            return self._username
        raise UnauthenticatedError(_REFUSAL)

    def _matches(self, header: bytes) -> bool:
        scheme, _, encoded = header.strip().partition(b" ")
        if scheme.lower() != b"basic":
            return False
        try:
            username, colon, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
        except binascii.Error:
            return False
        # Both are always compared, so that the time taken does not tell which one was wrong.
        right_name = hmac.compare_digest(username, self._username_bytes)
        right_password = hmac.compare_digest(password, self._password_bytes)
        return right_name and right_password and bool(colon)
