"""The sandbox's Lambda function behind an HTTP API: it answers by the contract, and records what it answered.

The table has an item for each answered request with good credentials, and one for the drill, which a proof writes:
until `outage_until` each answer is a 500, and until `pending_until` the secret's version AWSPENDING is the good one.
Requests with other credentials leave nothing, so that a stranger can't fill the table.
"""

import base64
import functools
import json
import os
import time
from typing import Any

import boto3

from .contract import WEBHOOK_PATH, Answer, answer, json_answer, misbehave, parse, text

DRILL = {"uuid": {"S": "drill"}, "id": {"S": "drill"}}
KEEP_S = 7 * 24 * 3600

_dynamodb = boto3.client("dynamodb")
_secrets = boto3.client("secretsmanager")


def lambda_handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Answer one request, in version 2.0 of the payload."""
    http, body = event["requestContext"]["http"], event.get("body") or ""
    sent = base64.b64decode(body) if event.get("isBase64Encoded") else body.encode()
    # Read for each request, so that a drill is in force at once in every execution environment; the secret each second.
    table, now = os.environ["TABLE_NAME"], time.time()
    drill = _dynamodb.get_item(TableName=table, Key=DRILL, ConsistentRead=True).get("Item", {})
    until = {name: float(drill.get(name, {}).get("N", 0)) for name in ("outage_until", "pending_until")}
    credentials = _credentials("AWSPENDING" if now < until["pending_until"] else "AWSCURRENT", int(now))
    proper = answer(
        http["method"], event["rawPath"], event["headers"].items(), sent, credentials=credentials, knows=lambda _: True
    )
    said = misbehave(proper, lambda uuid: _earlier(table, uuid))
    if now < until["outage_until"] and event["rawPath"] == WEBHOOK_PATH:
        said = json_answer(500, {"message": "Internal Server Error"})
    time.sleep(said.wait_s)
    if proper.status not in {401, 404, 405}:
        _record(table, sent, said, str(event["requestContext"].get("requestId", "")))
    return {"statusCode": said.status, "headers": dict(said.headers), "body": said.body.decode()}


@functools.lru_cache(maxsize=2)
def _credentials(stage: str, _second: int) -> tuple[str, str]:
    secret = _secrets.get_secret_value(SecretId=os.environ["SECRET_ARN"], VersionStage=stage)
    values = json.loads(secret["SecretString"])
    return values["api_key"], values["user_id"]


def _earlier(table: str, uuid: str) -> int:
    of_the_call: dict[str, Any] = {
        "KeyConditionExpression": "#uuid = :uuid",
        "ExpressionAttributeNames": {"#uuid": "uuid"},
        "ExpressionAttributeValues": {":uuid": {"S": uuid}},
    }
    count: int = _dynamodb.query(TableName=table, Select="COUNT", ConsistentRead=True, **of_the_call)["Count"]
    return count


def _record(table: str, sent: bytes, said: Answer, request_id: str) -> None:
    result, at = parse(sent), time.time()
    item: dict[str, Any] = {
        "uuid": {"S": (text(result, "uuid") or "-")[:512]},
        "id": {"S": f"{at:.6f} {request_id}"},
        "at": {"N": f"{at:.6f}"},
        "status": {"S": (text(result, "status") or "-")[:64]},
        "answer": {"N": str(said.status)},
        "accepted": {"BOOL": said.accepted is not None},
        "expires_at": {"N": str(int(at) + KEEP_S)},
    }
    _dynamodb.put_item(TableName=table, Item=item)
