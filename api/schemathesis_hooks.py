"""What schemathesis has to know of the shop beyond its OpenAPI document."""

import itertools
import re

import schemathesis

counter = itertools.count()


@schemathesis.hook
def filter_body(context, body):
    """Leaves out amounts such as 12.0, an integer to JSON Schema and refused by the shop."""
    amount = body.get("amount") if isinstance(body, dict) else None
    return not (isinstance(amount, float) and amount.is_integer())


@schemathesis.hook
def before_call(context, case, **kwargs):
    """Makes each valid key one that no other request has.

    The generator sends the same key with other bodies, which is refused as it should be; that a
    valid request is accepted could not be asked for then.
    """
    headers = case.headers or {}
    key = headers.get("Idempotency-Key")
    if isinstance(key, str) and re.fullmatch("[!-~]{1,255}", key):
        number = str(next(counter))
        headers["Idempotency-Key"] = key[: 255 - len(number)] + number
