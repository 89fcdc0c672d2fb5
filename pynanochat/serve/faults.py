"""What goes wrong in a request, as clients are told of it: OpenAI's error object and status codes."""

import json

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}


class Fault(Exception):
    """An answer that is an error. `param` names the field at fault, `code` is OpenAI's where it has one.

    The message is one line: value, limit, remedy.
    """

    def __init__(self, status: int, message: str, param: str | None = None, code: str | None = None, headers=None):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = headers or {}

    def body(self) -> dict:
        kind = _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


def bad(param: str | None, message: str, code: str | None = None) -> Fault:
    """A field of the request that cannot be; the message follows its name."""
    return Fault(400, f"{param}: {message}" if param else message, param, code)


def brief(value) -> str:
    """A value as an error message shows it."""
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."
