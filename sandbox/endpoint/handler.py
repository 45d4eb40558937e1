"""The sandbox's Lambda function behind an HTTP API: it answers by the contract, and records what it answered.

The table has an item for each proper request, and one for the drill, which a proof writes: until `outage_until` each
answer is a 500, and until `pending_until` the secret's version AWSPENDING is the good one.
"""

import base64
import functools
import json
import os
import time
from typing import Any

import boto3
from boto3.dynamodb.conditions import Key

from .contract import WEBHOOK_PATH, answer, json_answer, misbehave

KEEP_S = 7 * 24 * 3600

_table: Any = boto3.resource("dynamodb").Table(os.environ["TABLE_NAME"])
_secrets = boto3.client("secretsmanager")


def lambda_handler(event: dict[str, Any], context: Any) -> dict[str, Any]:
    """Answer one request, in version 2.0 of the payload."""
    http, path, body = event["requestContext"]["http"], event["rawPath"], event.get("body") or ""
    sent = base64.b64decode(body) if event.get("isBase64Encoded") else body.encode()
    # Read for each request, so that a drill is in force at once in every execution environment; the secret each second.
    drill = _table.get_item(Key={"uuid": "drill", "id": "drill"}, ConsistentRead=True).get("Item", {})
    now, headers = time.time(), event["headers"].items()
    credentials = _credentials("AWSPENDING" if now < drill.get("pending_until", 0) else "AWSCURRENT", int(now))
    proper = answer(http["method"], path, headers, sent, credentials=credentials, knows=lambda _: True)
    said = misbehave(proper, _earlier)
    if now < drill.get("outage_until", 0) and path == WEBHOOK_PATH:
        said = json_answer(500, {"message": "Internal Server Error"})
    time.sleep(said.wait_s)
    if proper.accepted:  # a stranger can't fill the table
        at, (uuid, status) = time.time(), proper.accepted
        item = {"uuid": uuid[:512] or "-", "id": context.aws_request_id, "status": status, "answer": said.status}
        item |= {"accepted": said.accepted is not None, "at_ms": int(at * 1000), "expires_at": int(at) + KEEP_S}
        _table.put_item(Item=item)
    return {"statusCode": said.status, "headers": dict(said.headers), "body": said.body.decode()}


@functools.lru_cache(maxsize=2)
def _credentials(stage: str, _second: int) -> tuple[str, str]:
    secret = _secrets.get_secret_value(SecretId=os.environ["SECRET_ARN"], VersionStage=stage)
    values = json.loads(secret["SecretString"])
    return values["api_key"], values["user_id"]


def _earlier(uuid: str) -> int:
    return int(_table.query(KeyConditionExpression=Key("uuid").eq(uuid), Select="COUNT", ConsistentRead=True)["Count"])
