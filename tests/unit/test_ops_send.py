"""A file of results is sent exactly, or refused with its bad lines."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.aws import QueueStack, Sqs
from tests.support.operator import run

NOTHING = "Nothing was done: "
SOUP = st.lists(
    st.sampled_from(["uuid", "status", "uuid,status\n", "Success", "Failed", ",", '"', '""', "\n", "\r", " ", "a", "{"])
    | st.sampled_from(['{"uuid": "a", "status": "Success"}', "}", "[", "0", "null", "\x00", "\ufeff", "=", "NULL"]),
    max_size=30,
).map("".join)

Send = Callable[[str | bytes], tuple[list[str], list[str]]]


@pytest.fixture(scope="module")
def send(tmp_path_factory: pytest.TempPathFactory) -> Send:
    """Return a function that sends a file; it returns the sent results and what is printed, the refusal last."""
    path = tmp_path_factory.mktemp("files") / "results"

    def of(content: str | bytes) -> tuple[list[str], list[str]]:
        sqs = Sqs([])
        path.write_bytes(content if isinstance(content, bytes) else content.encode(errors="surrogatepass"))
        ended = run(QueueStack(sqs), "send", "--file", str(path))
        assert ended.status == (0 if sqs.log else 2)
        sent = [" ".join(json.loads(body).values()) for _, body in sqs.log]
        return sorted(sent), ended.err.replace(str(path), "FILE").splitlines()

    return of


@pytest.mark.parametrize(
    "text",
    [
        "uuid,status\na,Success\nb,Failed\n",
        "\ufeffuuid,status\r\na,Success\r\nb,Failed\r\n",
        "uuid,status\ra,Success\rb,Failed\r",
        " UUID , Status \na , Success\nb,\tFailed\n",
        "call,status,at,uuid\n1,Success,3:00,a\n2,Failed,4:00,b\n",
        "uuid,status,,\na,Success,,\nb,Failed,x,y,z\n",
        'uuid,note,status\na,"x\ny\nz",Success\nb,,Failed\n',
        "uuid,status\n\na,Success\n,\n   \n , \n\nb,Failed\n\n",
        '\n{"uuid": "a", "status": "Success"}\r\n{"status": "Failed", "uuid": "b", "x": 1}',
        '{"detail-type": "any", "detail": {"uuid": "a", "status": "Success"}}\n{"uuid": "b", "status": "Failed"}',
    ],
)
def test_every_usual_shape_is_sent(send: Send, text: str) -> None:
    """An operator would have to convert a good export by hand."""
    assert send(text) == (["a Success", "b Failed"], [])


@pytest.mark.parametrize(
    "made",
    ["1.2345E+17", '"1,2345E+17"', "-1E-05", "#N/A", "#REF!", "#NAME?", "#DIV/0!", '="0012"', '"=""0012"""', "NULL"],
)
def test_what_only_a_spreadsheet_makes_is_refused(send: Send, made: str) -> None:
    """Three calls whose uuids a spreadsheet has rounded to one number would be reported as one that does not exist."""
    sent, said = send(f"uuid,status\na,Success\n{made},Success\n{made},Success\n")
    cell = next(csv.reader([made]))[0]
    fault = f"a spreadsheet made {cell} of the uuid: format the column as text, and export it"
    assert said[:2] == [f"line {number}: {fault}" for number in (3, 4)]
    assert said[2] == f"{NOTHING}2 of 3 lines can't be used. Correct or delete them."
    assert not sent


@pytest.mark.parametrize("uuid", ["12E45678", "1e5", "#1", "=", "nullify", "N/A", "0012", "1.5"])
def test_other_odd_uuids_are_send(send: Send, uuid: str) -> None:
    """An operator could not send the result of a call with an odd uuid."""
    assert send(f"uuid,status\n{uuid},Failed\n") == ([f"{uuid} Failed"], [])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("uuid,status\na,success\n", 'line 2: status must be exactly "Success" or "Failed", got "success"'),
        ('uuid,x,status\n\na,"x\ny",Success\n,,\n,,Failed\n', "line 6: uuid must be a string of 1 to 128 visible"),
        ("uuid,status\na,Success\na,Failed\n", "line 3: contradicts line 2, which says Success; a call has one status"),
        ('{"uuid": "a", "status": "Success"}\nnonsense\n', "line 2: the line is not valid JSON"),
        ("", "FILE has no results: expected CSV with the header uuid,status, or JSON lines."),
        ("a,Success\n", "FILE has no header: its first line must be uuid,status, or name both among others."),
        ("uuid,status,uuid\na,Success,b\n", "FILE has no header"),
        ('uuid,status\na,Success\n"b,Failed\n', "FILE is not valid CSV after line 2: check the quotes there."),
        (b"uuid,status\na,Success\n\xe9,Failed\n", "FILE is not UTF-8 text (line 3): save it as UTF-8."),
    ],
)
def test_a_bad_file_is_refused_with_what_to_correct(send: Send, text: str | bytes, said: str) -> None:
    """An operator would not know what to correct, or a part of the file would be sent."""
    sent, lines = send(text)
    assert lines[0].startswith(said)
    assert lines[-1].startswith(("FILE ", NOTHING))
    assert not sent


@settings(max_examples=300)
@given(st.text(st.characters(exclude_categories=())) | SOUP | SOUP.map("uuid,status\n".__add__) | st.binary())
def test_any_content_is_sent_or_refused(send: Send, content: str | bytes) -> None:
    """An odd file would end in a traceback, or in silence."""
    sent, said = send(content)
    assert sent or said
    assert "Unexpected" not in "".join(said)


def test_results_that_sqs_refuses_are_named_by_their_line(tmp_path: Path) -> None:
    """A script would treat a file that was sent in part as complete."""
    sqs, path = Sqs([]), tmp_path / "results.csv"
    sqs.refused = ["m12"]
    path.write_text("uuid,status\n" + "".join(f"m{one},Failed\n" for one in range(25)))
    ended = run(QueueStack(sqs), "send", "--file", str(path))
    assert (ended.status, ended.err) == (1, "SQS refused line 14: Refused why\n")
    assert ended.out == "24 results sent to the result queue of a-stack (eu-central-1).\n"
