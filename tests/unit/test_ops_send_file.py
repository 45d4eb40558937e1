"""A file of results is read exactly, or refused with its bad lines; what SQS did not take is told."""

import contextlib
import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flash_call_relay.models import FlashCallResult
from ops import send
from ops.errors import CommandError
from tests.support.aws import QueueStack, Sqs
from tests.support.operator import Ended, run

A, B = FlashCallResult("a", "Success"), FlashCallResult("b", "Failed")
NOTHING = "Nothing was done: "

UUIDS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=40)
RESULTS = st.builds(FlashCallResult, UUIDS | st.sampled_from("ab"), st.sampled_from(["Success", "Failed"]))
SOUP = st.lists(
    st.sampled_from(["uuid", "status", "uuid,status\n", "Success", "Failed", ",", '"', '""', "\n", "\r", " ", "a", "{"])
    | st.sampled_from(['{"uuid": "a", "status": "Success"}', "}", "[", "0", "null", "\x00", "\ufeff", "=", "NULL"]),
    max_size=30,
).map("".join)

Read = Callable[[str | bytes], tuple[dict[int, FlashCallResult], list[str]]]


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Read:
    """Return a function that reads a file; it returns the results and what is printed, the refusal last."""
    path = tmp_path_factory.mktemp("files") / "results"

    def of(content: str | bytes) -> tuple[dict[int, FlashCallResult], list[str]]:
        path.write_bytes(content if isinstance(content, bytes) else content.encode(errors="surrogatepass"))
        with contextlib.redirect_stderr(io.StringIO()) as err:
            try:
                return send.read(str(path)), err.getvalue().splitlines()
            except CommandError as error:
                return {}, [*err.getvalue().splitlines(), str(error).replace(str(path), "FILE")]

    return of


@pytest.mark.parametrize(
    "text",
    [
        "uuid,status\na,Success\nb,Failed\n",
        "uuid,status\na,Success\nb,Failed",
        "\ufeffuuid,status\r\na,Success\r\nb,Failed\r\n",
        "uuid,status\ra,Success\rb,Failed\r",
        "status,uuid\nSuccess,a\nFailed,b\n",
        " UUID , Status \na , Success\nb,\tFailed\n",
        '"uuid","status"\n"a","Success"\n"b","Failed"\n',
        "call,uuid,at,status\n1,a,3:00,Success\n2,b,4:00,Failed\n",
        "uuid,status,,\na,Success,,\nb,Failed,x,y,z\n",
        '\n{"uuid": "a", "status": "Success"}\r\n{"status": "Failed", "uuid": "b", "x": 1}',
        '{"detail-type": "any", "detail": {"uuid": "a", "status": "Success"}}\n{"uuid": "b", "status": "Failed"}',
    ],
)
def test_every_usual_shape_is_read(read: Read, text: str) -> None:
    """An operator would have to convert a good export by hand."""
    first = 1 if text.startswith('{"detail') else 2
    assert read(text) == ({first: A, first + 1: B}, [])


def test_blank_lines_are_skipped_and_counted(read: Read) -> None:
    """Empty rows of a spreadsheet would make the file bad, or shift its line numbers."""
    assert read("uuid,status\n\na,Success\n,\n   \n , \n\nb,Failed\n\n") == ({3: A, 8: B}, [])
    assert read('uuid,note,status\na,"x\ny\nz",Success\nb,,Failed\n') == ({4: A, 5: B}, [])


@pytest.mark.parametrize(
    "made",
    ["1.2345E+17", '"1,2345E+17"', "-1E-05", "#N/A", "#REF!", "#NAME?", "#DIV/0!", '="0012"', '"=""0012"""', "NULL"],
)
def test_what_only_a_spreadsheet_makes_is_refused(read: Read, made: str) -> None:
    """Three calls whose uuids a spreadsheet has rounded to one number would be reported as one that does not exist."""
    results, said = read(f"uuid,status\na,Success\n{made},Success\n{made},Success\n")
    cell = next(csv.reader([made]))[0]
    fault = f"a spreadsheet made {cell} of the uuid: format the column as text, and export it"
    assert said[:2] == [f"line {number}: {fault}" for number in (3, 4)]
    assert said[2] == f"{NOTHING}2 of 3 lines can't be used. Correct or delete them."
    assert not results


@pytest.mark.parametrize("uuid", ["12E45678", "1e5", "#1", "=", "nullify", "N/A", "0012", "1.5"])
def test_other_odd_uuids_are_read(read: Read, uuid: str) -> None:
    """An operator could not send the result of a call with an odd uuid."""
    assert read(f"uuid,status\n{uuid},Failed\n") == ({2: FlashCallResult(uuid, "Failed")}, [])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("uuid,status\na,success\n", 'line 2: status must be exactly "Success" or "Failed", got "success"'),
        ("uuid,status\nb\n", "line 2: the line has no status; expected a JSON object with uuid and status"),
        ("uuid,status\n,Failed\n", "line 2: uuid must be a string of 1 to 128 visible ASCII characters, got 0 char"),
        ("uuid,status\na,Success\na,Failed\n", "line 3: contradicts line 2, which says Success; a call has one status"),
        ('{"uuid": "a", "status": "Success"}\nnonsense\n', "line 2: the line is not valid JSON"),
        ('{"uuid": "a", "status": "Success"}\n\ufeff{}\n', "line 2: the line begins with a byte order mark"),
        ("", "FILE has no results: expected CSV with the header uuid,status, or JSON lines."),
        ("uuid,status\n\n", "FILE has no results"),
        ("a,Success\n", "FILE has no header: its first line must be uuid,status, or name both among others."),
        ("uuid;status\na;Success\n", "FILE has no header"),
        ("uuid,status,uuid\na,Success,b\n", "FILE has no header"),
        ('[{"uuid": "a", "status": "Success"}]', "FILE has no header"),
        ('uuid,status\na,Success\n"b,Failed\n', "FILE is not valid CSV after line 2: check the quotes there."),
        (f"uuid,status\na,{'x' * 200_000}\n", "FILE is not valid CSV"),
        (b"uuid,status\na,Success\n\xe9,Failed\n", "FILE is not UTF-8 text (line 3): save it as UTF-8."),
        ("uuid,status\n".encode("utf-16"), "FILE is not UTF-8 text (line 1)"),
    ],
)
def test_a_bad_file_is_refused_with_what_to_correct(read: Read, text: str | bytes, said: str) -> None:
    """An operator would not know what to correct, or a part of the file would be sent."""
    results, lines = read(text)
    assert lines[0].startswith(said)
    assert lines[-1].startswith(("FILE ", NOTHING))
    assert not results


@settings(max_examples=300)
@given(st.text(st.characters(exclude_categories=())) | SOUP | SOUP.map("uuid,status\n".__add__) | st.binary())
def test_any_content_is_read_or_refused(read: Read, content: str | bytes) -> None:
    """An odd file would end in a traceback, or report lines that it does not have."""
    results, said = read(content)
    assert results or said
    height = len(content if isinstance(content, bytes) else content.encode(errors="replace")) + 1
    assert all(1 <= number <= height for number in results)


# ---- sending ----


def sent(sqs: Sqs, path: Path, number: int) -> Ended:
    """Send a file of results, m0 and so on."""
    path.write_text("uuid,status\n" + "".join(f"m{one},Failed\n" for one in range(number)))
    return run(QueueStack(sqs), "send", "--file", str(path))


def test_results_that_sqs_refuses_are_named_by_their_line(tmp_path: Path) -> None:
    """A script would treat a file that was sent in part as complete."""
    sqs = Sqs([])
    sqs.refused = ["m12"]
    ended = sent(sqs, tmp_path / "results.csv", 25)
    assert (ended.status, ended.err) == (1, "SQS refused line 14: Refused why\n")
    assert ended.out == "24 results sent to the result queue of a-stack (eu-central-1).\n"


def test_a_dry_run_sends_nothing() -> None:
    """An operator who checks a result would send it."""
    words = ("send", "--uuid", "a", "--status", "Success", "--dry-run")
    assert run(QueueStack(Sqs([])), *words) == Ended(0, "Dry run: 1 result would be sent.\n", "")
