"""Bodies onto the result queue, ten to a call."""

import time
from collections.abc import Mapping
from typing import Any

from flash_call_relay.queues import chunks

TRIES = 3
PAUSE_S = 0.5  # before what SQS did not take, through no fault of ours, is offered again


def send(sqs: Any, queue_url: str, bodies: Mapping[str, str]) -> dict[str, str]:
    """Send bodies; return what SQS refused, by the key of the body: its code and words."""
    refused: dict[str, str] = {}
    entries: dict[str, dict[str, Any]] = {key: {"MessageBody": body} for key, body in bodies.items()}
    for chunk in chunks(entries):
        undone = dict(zip(map(str, range(len(chunk))), chunk, strict=True))  # keys by entry id
        for attempt in range(TRIES):
            reply = sqs.send_message_batch(
                QueueUrl=queue_url, Entries=[{"Id": i, **entries[undone[i]]} for i in undone]
            )
            failed = {entry["Id"]: entry for entry in reply.get("Failed", ())}
            taken = {entry["Id"] for entry in reply.get("Successful", ())}
            undone = {i: key for i, key in undone.items() if i not in taken}
            if all(failed.get(i, {}).get("SenderFault") for i in undone) or attempt == TRIES - 1:
                break
            time.sleep(PAUSE_S)
        for i, key in undone.items():
            fault = failed.get(i, {})
            refused[key] = f"{fault.get('Code', 'not acknowledged')} {fault.get('Message', '')}".strip()
    return refused
