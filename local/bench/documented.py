"""The function that Powertools' documentation shows: a batch processor, `requests.post`, and idempotency if wanted."""

import os
from collections.abc import Callable
from typing import Any

import requests
from aws_lambda_powertools import Logger
from aws_lambda_powertools.utilities import parameters
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.idempotency import (
    DynamoDBPersistenceLayer,
    IdempotencyConfig,
    idempotent_function,
)

Handler = Callable[[dict[str, Any], Any], object]

logger = Logger(service="documented")


def report(result: dict[str, str]) -> None:
    """Send one result."""
    secret: Any = parameters.get_secret(os.environ["CREDENTIALS_SECRET_ARN"], transform="json", max_age=300)
    headers = {"x-api-key": secret["api_key"], "x-user-id": secret["user_id"]}
    response = requests.post(os.environ["WEBHOOK_URL"], json=result, headers=headers, timeout=10)
    response.raise_for_status()
    logger.info("delivered", extra={"uuid": result["uuid"], "status": result["status"]})


def handler() -> Handler:
    """Return the function's handler; with a table for idempotency, it sends each result once."""
    send: Callable[..., object] = report
    if table := os.environ.get("IDEMPOTENCY_TABLE"):
        store = DynamoDBPersistenceLayer(table_name=table)
        once: Any = idempotent_function(
            data_keyword_argument="result", persistence_store=store, config=IdempotencyConfig(event_key_jmespath="uuid")
        )
        send = once(report)

    def lambda_handler(event: dict[str, Any], context: Any) -> object:
        processor = BatchProcessor(event_type=EventType.SQS)
        return process_partial_response(
            event=event,
            record_handler=lambda record: send(result=record.json_body),
            processor=processor,
            context=context,
        )

    return lambda_handler
