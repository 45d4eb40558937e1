"""`make bench`: what the relay costs, measured beside what people would use instead."""

import json
import time
import uuid as uuids
from typing import Any

from local import ROOT


def batch(size: int) -> dict[str, Any]:
    """Return an SQS event with `size` results, each of a call of its own."""
    (record,) = json.loads((ROOT / "events" / "sqs-success.json").read_text())["Records"]
    record["attributes"]["SentTimestamp"] = str(int(time.time() * 1000))
    results = [{"uuid": uuids.uuid4().hex, "status": "Success"} for _ in range(size)]
    return {"Records": [{**record, "messageId": str(uuids.uuid4()), "body": json.dumps(one)} for one in results]}
