"""A function that does nothing, for comparison: it imports boto3 and Powertools' Logger, and makes one client."""

import boto3
from aws_lambda_powertools import Logger

logger = Logger(service="bare")
sqs = boto3.client("sqs")


def lambda_handler(_event: object, _context: object) -> dict[str, str]:
    """Return an empty reply."""
    return {}
