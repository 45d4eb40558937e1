"""The documentation: its links, its AWS commands, and the operators' policy."""

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import botocore.session
import pytest
import yaml
from botocore import xform_name

from flash_call_relay.models import Reason
from local import ROOT
from tests.support.template import pasted_policy, texts

PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
CODE = [*ROOT.glob("*.yaml"), *(file for folder in ("ops", "src", "tests") for file in ROOT.glob(f"{folder}/**/*.py"))]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of a page's headings."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^a-z0-9 _-]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links() -> list[tuple[Path, str, str]]:
    """Return each link inside the repository: the file that has it, the path and the anchor."""
    found = [(page, link) for page in PAGES for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text())]
    in_code = r"docs/[\w/-]+\.md(?:#[a-z-]+)?"
    found += [(ROOT / file.name, link) for file in CODE for link in re.findall(in_code, file.read_text())]
    return [(page, *link.partition("#")[::2]) for page, link in found if not link.startswith("https://")]


def test_each_link_leads_to_a_file_and_a_heading() -> None:
    """An engineer at night would land at the top of a page, or nowhere."""
    broken = []
    for page, path, anchor in links():
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(f"{page.name}: {path}#{anchor}")
    assert broken == []
    assert len(links()) > 50


def test_each_file_and_test_that_a_page_names_exists() -> None:
    """A new contributor or a reviewer would look for something that has another name by now."""
    text = "".join(page.read_text() for page in PAGES)
    files = set(re.findall(r"`(\w[\w.-]*(?:/[\w./-]*|\.(?:py|yaml|toml|md)))`", text))
    rooms = (ROOT, ROOT / "src" / "flash_call_relay")
    missing = {name for name in files if not any((room / name).exists() for room in rooms)}
    assert missing == {"aws-sdk-go-v2/service/sqs", "packaged.yaml"}  # not of this repository
    tests = "".join(file.read_text() for file in ROOT.glob("tests/**/test_*.py"))
    assert [name for name in re.findall(r"`(test_\w+)`", text) if f"def {name}(" not in tests] == []


def test_each_row_of_what_happens_to_a_result_agrees_with_the_code_and_names_its_test() -> None:
    """A reader would trust a table that the code has left behind, or look in vain for what holds it."""
    page = (ROOT / "docs" / "delivery.md").read_text()
    tests = {ref: place for ref, *place in re.findall(r'^\[(\w+)\]: \.\./(\S+) "(test_\w+)"$', page, re.MULTILINE)}
    assert [name for path, name in tests.values() if f"\ndef {name}(" not in (ROOT / path).read_text()] == []
    rows = re.findall(r"^\| (?!---|the endpoint answers|situation).* \| (.*) \|(.*)\|$", page, re.MULTILINE)
    assert all("][" in outcome for outcome, _ in rows)
    assert set(re.findall(r"\]\[(\w+)\]", page)) == tests.keys()
    reasons = {Reason(word): (outcome, why) for outcome, why in rows for word in re.findall(r"`(\w+)`", why)}
    assert reasons.keys() == set(Reason) - {Reason.RETRIES_EXHAUSTED}
    for reason, (outcome, why) in reasons.items():
        assert (reason.parks, reason.against_endpoint) == ("**parked**" in outcome, "⚡" in why), reason


def test_each_check_that_checkov_leaves_out_has_its_reason() -> None:
    """A security reviewer would find a check switched off, and no word about it."""
    left_out = yaml.safe_load((ROOT / ".checkov.yaml").read_text())["skip-check"]
    reasons = (ROOT / "SECURITY.md").read_text().partition("| does not hold |")[2].partition("\n\n")[0]
    assert sorted(left_out) == sorted(set(re.findall(r"CKV_AWS_\d+", reasons)))


# ---- AWS commands ----

AWS = botocore.session.get_session()
OF_THE_CLI_ITSELF = {"package", "deploy"}  # no operations of CloudFormation


def operations(service: str) -> dict[str, str]:
    """Return the operations of a service by their names in boto3."""
    return {xform_name(name): name for name in AWS.get_service_model(service).operation_names}


def aws_commands(page: Path) -> Iterator[tuple[str, str, str]]:
    """Yield the service, the operation and the rest of each AWS command on a page."""
    text = page.read_text()
    blocks = [block.replace("\\\n", " ") for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)]
    spans = re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    code = re.sub(r"'[^'\n]*'", "''", "\n".join([*blocks, *(" ".join(span.split()) for span in spans)]))
    for service, command, rest in re.findall(r"\baws ([a-z]+) ([a-z-]+)((?:(?!\baws )[^\n])*)", code):
        if command == "wait":
            waiters = AWS.get_waiter_model(service)
            (waiter,) = [name for name in waiters.waiter_names if xform_name(name, "-") == rest.split()[0]]
            yield service, xform_name(waiters.get_waiter(waiter).operation, "-"), rest
        elif command not in OF_THE_CLI_ITSELF:
            yield service, command, rest


COMMANDS = {(page.name, *command) for page in PAGES for command in aws_commands(page)}


@pytest.mark.parametrize(
    ("service", "command", "rest"), [pytest.param(*one[1:], id=" ".join(one[:3])) for one in sorted(COMMANDS)]
)
def test_an_aws_command_exists(service: str, command: str, rest: str) -> None:
    """An engineer would type a command that the AWS CLI does not know."""
    operation = operations(service)[command.replace("-", "_")]
    shape = AWS.get_service_model(service).operation_model(operation).input_shape
    members = {xform_name(name, "-") for name in shape.members} if shape else set()
    options = set(re.findall(r"(?<!\S)--(?:no-)?([a-z-]+)", rest))
    assert options <= members | {"query", "output"}


def test_a_pasted_block_of_the_runbook_stops_at_the_first_failure(tmp_path: Path) -> None:
    """A wrong stack name would end in calls for no queue and no secret, with the next line's key on the screen."""
    stub, calls = tmp_path / "aws", tmp_path / "calls"
    stub.write_text(f'#!/bin/sh\necho "$@" >> {calls}\nexit 1\n')
    stub.chmod(0o700)
    first, *blocks = re.findall(
        r"^ *```sh\n(.*?)```", (ROOT / "docs" / "runbook.md").read_text(), re.DOTALL | re.MULTILINE
    )
    assert len(blocks) > 6
    for block in blocks:
        calls.write_text("")
        called = f"{block}\nchange A b" if block.startswith("change()") else block
        command = ["bash", "-c", f"{first}\n{called}"]
        ended = subprocess.run(command, env={"PATH": f"{tmp_path}:{os.defpath}"}, capture_output=True, check=False)
        assert (len(calls.read_text().splitlines()), ended.returncode) == (1, 1), called
        assert not ended.stderr, called


def action(service: str, method: str) -> str:
    """Return the IAM action of a method of boto3. IAM has no actions for batches of SQS."""
    name = operations(service)[method].removesuffix("Batch")
    return f"{service}:{'InvokeFunction' if (service, name) == ('lambda', 'Invoke') else name}"


def test_the_operators_policy_allows_exactly_the_commands_and_the_runbook() -> None:
    """A command at night would end in AccessDenied, or an operator could do more than the commands do."""
    needed = {"kms:Decrypt", "kms:GenerateDataKey"}  # services use the key for the operator
    for file in ROOT.glob("ops/*.py"):
        code = file.read_text()
        methods = set(re.findall(r"(?<!socket)\.(\w+)[(,]", code)) | set(re.findall(r"get_paginator\(\"(\w+)\"", code))
        for service in set(re.findall(r"client\(\"(\w+)\"", code)):
            needed |= {action(service, method) for method in methods & operations(service).keys()}
    assert len(needed) > 20
    to_run = {
        action(one, name.replace("-", "_")) for page, one, name, _ in COMMANDS if page in ("operating.md", "runbook.md")
    }
    assert len(to_run) > 10
    granted = set()
    for one in pasted_policy("operator"):
        names, resources = texts(one["Action"]), texts(one["Resource"])
        granted |= set(names)
        assert resources == ["*"] or {arn.split(":")[2] for arn in resources} == {name.split(":")[0] for name in names}
    page = (ROOT / "docs" / "operating.md").read_text()
    by_others = set(re.findall(r"`([a-z]+:[A-Z]\w+)`", page.partition("need more than this policy")[2]))
    assert granted == (needed | to_run) - by_others
    assert by_others <= to_run
