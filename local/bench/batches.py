"""The events of the benchmark, as Lambda's poller makes them, and the name of the unit of CPU."""

import json
import time
import uuid as uuids
from typing import Any

POST = "one bare POST"


def batch(size: int) -> dict[str, Any]:
    """Return an SQS event with `size` results, each of a call of its own."""
    sent = str(int(time.time() * 1000))
    return {
        "Records": [
            {
                "messageId": str(uuids.uuid4()),
                "receiptHandle": "A" * 300,
                "body": json.dumps({"uuid": uuids.uuid4().hex, "status": "Success"}),
                "attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": sent},
                "messageAttributes": {},
                "eventSource": "aws:sqs",
                "eventSourceARN": "arn:aws:sqs:eu-central-1:000000000000:results",
                "awsRegion": "eu-central-1",
            }
            for _ in range(size)
        ]
    }
