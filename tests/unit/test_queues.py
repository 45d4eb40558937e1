"""SQS takes 1 MiB in one call, and refuses all entries of a larger call."""

from flash_call_relay.queues import MAX_MESSAGES
from tests.support.template import template


def test_the_messages_that_the_relay_sends_in_one_call_fit() -> None:
    """SQS would refuse to park large messages, and the relay would try them for ten days."""
    largest = template()["Resources"]["ResultQueue"]["Properties"]["MaximumMessageSize"]
    assert MAX_MESSAGES * (largest + 1024) <= 1024 * 1024  # the attributes take less than 1 KiB
