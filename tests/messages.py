"""What an error message must be like."""

import re

import pytest


def message_of(call, kind, pattern):
    """Checks the kind of error, and that its message is one line that matches."""
    with pytest.raises(kind) as raised:
        call()
    message = str(raised.value)
    assert "\n" not in message and message.endswith("."), message
    assert re.search(pattern, message), message
    assert issubclass(raised.type, kind)
    return message
