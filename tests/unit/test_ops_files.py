"""A file of results is read exactly, or refused with its bad lines; messages are written to a new file."""

import csv
import io
import json
import re
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flash_call_relay.models import FlashCallResult
from ops.errors import CommandError
from ops.files import Lines, read, write
from ops.messages import Message

A, B, C = FlashCallResult("a", "Success"), FlashCallResult("b", "Failed"), FlashCallResult("c", "Success")

UUIDS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=40)
RESULTS = st.builds(FlashCallResult, UUIDS | st.sampled_from("ab"), st.sampled_from(["Success", "Failed"]))
WORDS = st.sampled_from(
    ["uuid", "status", "uuid,status\n", "Success", "Failed", ",", '"', '""', "\n", "\r", "\r\n", " ", "a", "\ufeff"]
) | st.sampled_from(
    ['{"uuid": "a", "status": "Success"}', '{"uuid": "a", "status": "Failed"}', "{", "}", "[", "0", "null", "\x00"]
)
SOUP = st.lists(WORDS, max_size=30).map("".join)

MakeFile = Callable[[str | bytes], str]


@pytest.fixture(scope="module")
def make_file(tmp_path_factory: pytest.TempPathFactory) -> MakeFile:
    """Return a function that writes a file and returns its name."""
    path = tmp_path_factory.mktemp("files") / "results"

    def to(content: str | bytes) -> str:
        path.write_bytes(content if isinstance(content, bytes) else content.encode(errors="surrogatepass"))
        return str(path)

    return to


def fault(name: str) -> str:
    """Return the sentence about a file that is refused, without the file's name at its start."""
    with pytest.raises(CommandError) as caught:
        read(name)
    said = str(caught.value)
    assert said.startswith(name)
    assert "\n" not in said
    return said.removeprefix(name)


def model(results: list[FlashCallResult], first_line: int) -> Lines:
    """Return the lines of a file with these results, one per line."""
    lines = Lines()
    seen: dict[str, str] = {}
    for number, result in enumerate(results, first_line):
        if seen.setdefault(result.uuid, result.status) != result.status:
            lines.bad[number] = "contradicts"
            for good in [good for good, one in lines.good.items() if one.uuid == result.uuid]:
                lines.bad[good] = "contradicts"
                del lines.good[good]
        elif any(result.uuid == before.uuid for before in results[: number - first_line]):
            lines.copies += 1
        else:
            lines.good[number] = result
    return lines


def assert_same(found: Lines, expected: Lines) -> None:
    """Compare all but the wording."""
    assert list(found.good.items()) == list(expected.good.items())
    assert list(found.bad) == sorted(expected.bad)
    assert found.copies == expected.copies


class TestCsv:
    """CSV from spreadsheets and databases."""

    @pytest.mark.parametrize(
        "text",
        [
            "uuid,status\na,Success\nb,Failed\n",
            "uuid,status\na,Success\nb,Failed",
            "uuid,status\r\na,Success\r\nb,Failed\r\n",
            "uuid,status\ra,Success\rb,Failed\r",
            "uuid;status\na;Success\nb;Failed\n",
            "uuid\tstatus\na\tSuccess\nb\tFailed\n",
            "status,uuid\nSuccess,a\nFailed,b\n",
            " UUID , Status \na , Success\nb,\tFailed\n",
            '"uuid","status"\n"a","Success"\n"b","Failed"\n',
            "call,uuid,at,status\n1,a,3:00,Success\n2,b,4:00,Failed\n",
            "uuid,status,note\na,Success\nb,Failed,x,y,z\n",
            "uuid,status,,\na,Success,,\nb,Failed,,\n",
        ],
    )
    def test_every_usual_shape_is_read(self, make_file: MakeFile, text: str) -> None:
        """An operator would have to convert a good export by hand."""
        assert_same(read(make_file(text)), Lines(good={2: A, 3: B}))

    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])  # both with a byte-order mark
    def test_a_byte_order_mark_is_skipped(self, make_file: MakeFile, encoding: str) -> None:
        """An export of Excel would be refused although its header looks right."""
        assert read(make_file("uuid,status\na,Success\n".encode(encoding))).good == {2: A}

    def test_empty_rows_are_skipped_and_counted(self, make_file: MakeFile) -> None:
        """Empty rows of a spreadsheet would make the file bad, or shift its line numbers."""
        text = "uuid,status\n\na,Success\n,\n   \n , \n\nb,Failed\n\n"
        assert_same(read(make_file(text)), Lines(good={3: A, 8: B}))

    def test_line_numbers_include_line_breaks_in_cells(self, make_file: MakeFile) -> None:
        """An operator would look for a bad line in the wrong place."""
        text = 'uuid,note,status\na,"x\ny\nz",Success\nb,,?\nc,"\r\n",Success\nd,,?\n'
        lines = read(make_file(text))
        assert (lines.good, list(lines.bad)) == ({2: A, 6: C}, [5, 8])
        assert read(make_file('uuid,"of\nthree\nlines",status\na,,Success\n')).good == {4: A}

    @pytest.mark.parametrize(
        "text",
        ["a,Success\n", "uuid\na\n", "status\nSuccess\n", "uuid,status,uuid\na,Success,b\n", "sep=;\nuuid;status\n"],
    )
    def test_csv_without_a_header_is_refused(self, make_file: MakeFile, text: str) -> None:
        """The command would lose the first result, or send a wrong column."""
        assert "first line must name the columns uuid and status once" in fault(make_file(text))

    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ('uuid,status\na,Success\n"b,Failed\n', 3),
            ('uuid,status\n"a"b,Success\n', 2),
            ('"uuid"x,status\n', 1),
            (f"uuid,status\na,{'x' * 200_000}\n", 2),
        ],
    )
    def test_broken_csv_is_refused_with_its_line(self, make_file: MakeFile, text: str, line: int) -> None:
        """A truncated file would be sent in part, or end in a traceback."""
        assert f"is not valid CSV from line {line} on" in fault(make_file(text))

    @given(
        st.lists(RESULTS, min_size=1, max_size=20),
        st.fixed_dictionaries(
            {
                "delimiter": st.sampled_from(",;\t"),
                "lineterminator": st.sampled_from(["\n", "\r\n"]),
                "quoting": st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
            }
        ),
        st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    )
    def test_every_file_of_the_csv_module_is_read_exactly(
        self, make_file: MakeFile, results: list[FlashCallResult], dialect: dict[str, Any], encoding: str
    ) -> None:
        """A result with a quote or a delimiter in its uuid would be lost, or reported for another call."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, **dialect)
        writer.writerows([("uuid", "status"), *((result.uuid, result.status) for result in results)])
        assert_same(read(make_file(text.getvalue().encode(encoding))), model(results, 2))


class TestJsonLines:
    """JSON lines from logs and `--json`."""

    def test_blank_lines_are_skipped_and_counted(self, make_file: MakeFile) -> None:
        """A good export would be refused, or its line numbers would be wrong."""
        text = '\n{"uuid": "a", "status": "Success"}\r\n\r\n  \n{"status": "Failed", "uuid": "b", "x": 1}'
        assert_same(read(make_file(text)), Lines(good={2: A, 5: B}))

    def test_an_eventbridge_envelope_is_read(self, make_file: MakeFile) -> None:
        """An operator could not send an archive of EventBridge events again."""
        envelope = {"detail-type": "Flash Call Result", "detail": {"uuid": "a", "status": "Success"}}
        assert read(make_file(json.dumps(envelope))).good == {1: A}

    def test_a_json_array_is_refused_with_advice(self, make_file: MakeFile) -> None:
        """An operator would read about a missing CSV header, which does not help."""
        assert "expected one object per line" in fault(make_file('\n [{"uuid": "a", "status": "Success"}]'))

    def test_a_bad_line_is_reported_with_its_fault(self, make_file: MakeFile) -> None:
        """An operator could not find a bad line."""
        text = '{"uuid": "a", "status": "Success"}\n{"uuid": "b"}\nnonsense\n[]\n{"uuid": "", "status": "Failed"}\n'
        lines = read(make_file(text))
        assert lines.good == {1: A}
        assert list(lines.bad) == [2, 3, 4, 5]
        assert lines.bad[2] == "the line has no status; expected a JSON object with uuid and status"
        assert lines.bad[3].startswith("the line is not valid JSON")

    @pytest.mark.parametrize("before", ["", "\n", '{"uuid": "b", "status": "Failed"}\n'])
    def test_a_byte_order_mark_within_the_file_is_named(self, make_file: MakeFile, before: str) -> None:
        """An operator who has joined files would look for an error that no editor shows."""
        lines = read(make_file(b"\xef\xbb\xbf" + f'{before}\ufeff{{"uuid": "a", "status": "Success"}}\n'.encode()))
        ((number, said),) = lines.bad.items()
        assert number == before.count("\n") + 1
        assert re.search("BOM|byte order mark", said)

    @given(st.lists(RESULTS, min_size=1, max_size=20), st.sampled_from(["\n", "\r\n"]), st.sampled_from(["", "\n"]))
    def test_every_file_of_json_dumps_is_read_exactly(
        self, make_file: MakeFile, results: list[FlashCallResult], end: str, last: str
    ) -> None:
        """A result would be lost, or reported for another call."""
        lines = [json.dumps({"uuid": result.uuid, "status": result.status}) for result in results]
        assert_same(read(make_file(end.join(lines) + last)), model(results, 1))


class TestEveryFile:
    """Files of either format."""

    def test_copies_are_left_out_and_contradictions_are_bad(self, make_file: MakeFile) -> None:
        """A call would be reported with two statuses, or a copied line would make the file bad."""
        lines = read(make_file("uuid,status\na,Success\nb,Failed\na,Success\na,Failed\nb,Failed\n"))
        assert (lines.good, lines.copies, list(lines.bad)) == ({3: B}, 2, [2, 5])
        assert lines.bad[2] == "contradicts line 5, which says Failed; a call has one status"
        assert lines.bad[5] == "contradicts line 2, which says Success; a call has one status"

    def test_a_bad_csv_cell_is_reported_with_its_fault(self, make_file: MakeFile) -> None:
        """An operator would not know what to fix."""
        lines = read(make_file("uuid,status\na,success\nb\n,Failed\n"))
        assert lines.bad == {
            2: 'status must be exactly "Success" or "Failed", got "success"',
            3: "the line has no status; expected a JSON object with uuid and status",
            4: "uuid must be a string of 1 to 128 visible ASCII characters, got 0 characters",
        }

    @pytest.mark.parametrize("content", [b"", b"\n \r\n", b"\xef\xbb\xbf", b"\xff\xfe"])
    def test_an_empty_file_is_refused(self, make_file: MakeFile, content: bytes) -> None:
        """A failed export would look like one without results."""
        assert "is empty" in fault(make_file(content))

    @pytest.mark.parametrize(
        ("content", "line"), [(b"\x80", 1), (b"uuid,status\na,Success\n\xe9,Failed\n", 3), (b"\x89PNG\r\n\x1a\n", 1)]
    )
    def test_a_file_that_is_not_text_is_refused_with_its_line(
        self, make_file: MakeFile, content: bytes, line: int
    ) -> None:
        """A picture, or an export in an old encoding, would end in a traceback."""
        assert f"is not UTF-8 text (line {line})" in fault(make_file(content))

    @pytest.mark.parametrize("content", [b"\xff\xfeu", b"\xfe\xff\xd8\x00"])
    def test_truncated_utf_16_is_refused(self, make_file: MakeFile, content: bytes) -> None:
        """A file that a full disk truncated would end in a traceback."""
        assert "text" in fault(make_file(content))

    def test_a_name_without_a_readable_file_is_refused(self, tmp_path: Path) -> None:
        """A mistyped name would end in a traceback."""
        (tmp_path / "file").touch()
        assert "is a directory" in fault(str(tmp_path))
        assert "can't be read: No such file or directory." in fault(str(tmp_path / "none"))
        assert "can't be read: Not a directory." in fault(str(tmp_path / "file" / "none"))
        assert "can't be read: File name too long." in fault(str(tmp_path / ("x" * 1000)))

    def test_a_dash_reads_standard_input(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An operator could not pipe results in."""
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbfuuid,status\r\na,Success\r\n")))
        assert read("-").good == {2: A}

    @settings(max_examples=300)
    @given(st.text(st.characters(exclude_categories=())) | SOUP | SOUP.map("uuid,status\n".__add__) | st.binary())
    def test_any_content_is_read_or_refused(self, make_file: MakeFile, content: str | bytes) -> None:
        """An odd file would end in a traceback, or report lines that it does not have."""
        try:
            lines = read(make_file(content))
        except CommandError:
            return
        text = content if isinstance(content, str) else content.decode(errors="replace")
        height = text.count("\n") + text.count("\r") + 1
        numbers = [*lines.good, *lines.bad]
        assert all(1 <= number <= height for number in numbers)
        assert len(set(numbers)) == len(numbers)

    @settings(max_examples=300)
    @given(st.lists(SOUP, max_size=8).map("\n".join))
    def test_every_line_is_accounted_for(self, make_file: MakeFile, text: str) -> None:
        """A line would be left out silently."""
        for header in ("uuid,status", '{"uuid": "z", "status": "Failed"}'):
            whole = f"{header}\n{text}"
            try:
                lines = read(make_file(whole))
            except CommandError:
                continue
            if header.startswith("{"):
                expected = sum(1 for line in whole.split("\n") if line.strip())
            else:
                rows = csv.reader(io.StringIO(whole, newline=""))
                expected = sum(1 for row in rows if "".join(row).strip()) - 1
            assert len(lines.good) + len(lines.bad) + lines.copies == expected


# ---- messages written to a file ----


def message(name: str, body: str) -> Message:
    """Return a parked message."""
    received = {"MessageId": name, "ReceiptHandle": "h", "Body": body, "Attributes": {"SentTimestamp": "1763800000123"}}
    return Message.of(received, dead=False)


MESSAGES = [message("m1", '{"uuid": "a", "status": "Failed"}'), message("m2", "\u20ac\nno result")]


def test_written_messages_can_be_sent_again(tmp_path: Path) -> None:
    """Messages discarded by mistake would be lost, or every user of the machine could read them."""
    path = tmp_path / "discarded.jsonl"
    write(str(path), MESSAGES)
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    assert [one["body"] for one in kept] == [one.body for one in MESSAGES]
    assert [one["message_id"] for one in kept] == ["m1", "m2"]
    lines = read(str(path))
    assert (lines.good, list(lines.bad)) == ({1: FlashCallResult("a", "Failed")}, [2])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_existing_file_is_not_overwritten(tmp_path: Path) -> None:
    """A second discard would destroy the only copy of the first one's messages."""
    path = tmp_path / "discarded.jsonl"
    path.write_text("precious")
    with pytest.raises(CommandError, match="exists: name a new file with --to"):
        write(str(path), MESSAGES)
    assert path.read_text() == "precious"


@pytest.mark.parametrize("name", ["none/discarded.jsonl", "x" * 1000, ""])
def test_a_file_that_cannot_be_written_is_refused(tmp_path: Path, name: str) -> None:
    """Messages would be deleted without a copy."""
    with pytest.raises(CommandError, match=r"[nN]othing was deleted"):
        write(str(tmp_path / name), MESSAGES)
