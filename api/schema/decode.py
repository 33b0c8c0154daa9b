"""Bytes to a request Struct, and msgspec's complaints to our errors.

Knows no particular request.
"""

import re
from typing import TypeVar

import msgspec

from api.errors import ApiError
from api.schema.needed import missing

T = TypeVar("T", bound=msgspec.Struct)

# A body has to leave so much of the interpreter's depth to what it is put into and handled by later
# on: the job, the template's JSON, the answer that repeats it.
_SPARE_DEPTH = 700
_to_wire = msgspec.msgpack.Encoder().encode

_PATH = re.compile(r"^(?P<what>.*) - at (?:`key` in )?`\$\.?(?P<path>[^`]*)`$", re.DOTALL)
_MISSING = re.compile(r"^Object missing required field `(?P<field>[^`]*)`$")


def decode_body(decoder: msgspec.json.Decoder[T], data: bytes) -> T:
    """Read a JSON body. Raises ApiError with the path of the field as `param`."""
    if not data.strip():
        raise ApiError("invalid_json", "The request body is empty; it must be a JSON object.")
    try:
        request = decoder.decode(data)
        _check_fits_the_wire(request)
    except msgspec.ValidationError as error:
        raise invalid(str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError("invalid_json", f"The request body is not valid JSON: {error}.") from error
    except RecursionError as error:
        raise ApiError("invalid_json", "The request body is nested too deeply.") from error
    return request


def _check_fits_the_wire(request: msgspec.Struct) -> None:
    """Raise ApiError or RecursionError for what JSON can say and a job cannot carry."""
    nested: object = request
    for _ in range(_SPARE_DEPTH):
        nested = [nested]
    try:
        _to_wire(nested)
    except OverflowError as error:
        what = "The request has an integer beyond 64 bits; write it as a float, such as 1e30."
        raise ApiError("invalid_value", what) from error


def invalid(complaint: str) -> ApiError:
    """The error for what msgspec said, e.g.

    "Expected `int`, got `str` - at `$.messages[0].role`".
    """
    match = _PATH.match(complaint)
    what, path = (match["what"], match["path"]) if match else (complaint, "")
    param = path.replace("[...]", "")
    if absent := _MISSING.match(what):
        param = f"{param}.{absent['field']}".lstrip(".")
        return missing(param)
    code = "invalid_type" if what.startswith("Expected") and ", got " in what else "invalid_value"
    where = f" for '{param}'" if param else ""
    return ApiError(code, f"Invalid value{where}: {what[:1].lower()}{what[1:]}.", param or None)
