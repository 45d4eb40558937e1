"""A file of results is read whole and exactly, or refused with the lines that are wrong."""

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flash_call_relay.models import FlashCallResult
from ops.files import Lines, read
from ops.problems import Problem

A, B, C = FlashCallResult("a", "Success"), FlashCallResult("b", "Failed"), FlashCallResult("c", "Success")

UUIDS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=40)
RESULTS = st.builds(FlashCallResult, UUIDS | st.sampled_from("ab"), st.sampled_from(["Success", "Failed"]))
WORDS = st.sampled_from(
    ["uuid", "status", "uuid,status\n", "Success", "Failed", ",", '"', '""', "\n", "\r", "\r\n", " ", "a", "\ufeff"]
) | st.sampled_from(
    ['{"uuid": "a", "status": "Success"}', '{"uuid": "a", "status": "Failed"}', "{", "}", "[", "0", "null", "\x00"]
)
SOUP = st.lists(WORDS, max_size=30).map("".join)

Write = Callable[[str | bytes], str]


@pytest.fixture(scope="module")
def write(tmp_path_factory: pytest.TempPathFactory) -> Write:
    """Return what writes a file and names it."""
    path = tmp_path_factory.mktemp("files") / "results"

    def to(content: str | bytes) -> str:
        path.write_bytes(content if isinstance(content, bytes) else content.encode(errors="surrogatepass"))
        return str(path)

    return to


def fault(name: str) -> str:
    """What is said of a file that can't be taken: one sentence, which names it."""
    with pytest.raises(Problem) as caught:
        read(name)
    said = str(caught.value)
    assert said.startswith(name)
    assert "\n" not in said
    return said.removeprefix(name)


def model(results: list[FlashCallResult], first_line: int) -> Lines:
    """What is to be found in a file with these results, one a line."""
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
    """Compare all but the words."""
    assert list(found.good.items()) == list(expected.good.items())
    assert list(found.bad) == sorted(expected.bad)
    assert found.copies == expected.copies


class TestCsv:
    """What spreadsheets and databases write."""

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
    def test_shapes(self, write: Write, text: str) -> None:
        """An operator would have to convert a good export by hand, or a result would be read wrongly."""
        assert_same(read(write(text)), Lines(good={2: A, 3: B}))

    @pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])  # both with a byte-order mark
    def test_byte_order_marks(self, write: Write, encoding: str) -> None:
        """An export of Excel would be refused for a header that looks right."""
        assert read(write("uuid,status\na,Success\n".encode(encoding))).good == {2: A}

    def test_blank_lines(self, write: Write) -> None:
        """A spreadsheet's empty rows would be bad lines, and the whole file refused; or the others misnumbered."""
        text = "uuid,status\n\na,Success\n,\n   \n , \n\nb,Failed\n\n"
        assert_same(read(write(text)), Lines(good={3: A, 8: B}))

    def test_line_numbers_count_lines_within_cells(self, write: Write) -> None:
        """The operator would be sent to the wrong line of the file."""
        text = 'uuid,note,status\na,"x\ny\nz",Success\nb,,?\nc,"\r\n",Success\nd,,?\n'
        lines = read(write(text))
        assert (lines.good, list(lines.bad)) == ({2: A, 6: C}, [5, 8])
        assert read(write('uuid,"of\nthree\nlines",status\na,,Success\n')).good == {4: A}

    @pytest.mark.parametrize(
        "text",
        ["a,Success\n", "uuid\na\n", "status\nSuccess\n", "uuid,status,uuid\na,Success,b\n", "sep=;\nuuid;status\n"],
    )
    def test_no_header(self, write: Write, text: str) -> None:
        """The first result would be taken for a header and lost, or a wrong column sent."""
        assert "first line must name the columns uuid and status once" in fault(write(text))

    @pytest.mark.parametrize(
        ("text", "line"),
        [
            ('uuid,status\na,Success\n"b,Failed\n', 3),
            ('uuid,status\n"a"b,Success\n', 2),
            ('"uuid"x,status\n', 1),
            (f"uuid,status\na,{'x' * 200_000}\n", 2),
        ],
    )
    def test_broken_quotes_and_endless_cells(self, write: Write, text: str, line: int) -> None:
        """A file cut in the middle would be sent in part, or end in a traceback."""
        assert f"is no CSV from line {line} on" in fault(write(text))

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
    def test_what_the_csv_module_writes_is_read_exactly(
        self, write: Write, results: list[FlashCallResult], dialect: dict[str, Any], encoding: str
    ) -> None:
        """A result with a quote or a delimiter in its uuid would be reported for another call, twice or not at all."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, **dialect)
        writer.writerows([("uuid", "status"), *((result.uuid, result.status) for result in results)])
        assert_same(read(write(text.getvalue().encode(encoding))), model(results, 2))


class TestJsonLines:
    """What logs and `--json` write."""

    def test_blank_lines_and_crlf(self, write: Write) -> None:
        """A good export would be refused, or the operator sent to the wrong line."""
        text = '\n{"uuid": "a", "status": "Success"}\r\n\r\n  \n{"status": "Failed", "uuid": "b", "x": 1}'
        assert_same(read(write(text)), Lines(good={2: A, 5: B}))

    def test_envelopes(self, write: Write) -> None:
        """An archive of EventBridge's events could not be sent again."""
        envelope = {"detail-type": "Flash Call Result", "detail": {"uuid": "a", "status": "Success"}}
        assert read(write(json.dumps(envelope))).good == {1: A}

    def test_an_array(self, write: Write) -> None:
        """The operator would be told of a missing CSV header, and not what to do."""
        assert "one object a line is wanted" in fault(write('\n [{"uuid": "a", "status": "Success"}]'))

    def test_bad_lines_say_why(self, write: Write) -> None:
        """A bad line would hide the good ones, or not be found."""
        text = '{"uuid": "a", "status": "Success"}\n{"uuid": "b"}\nnonsense\n[]\n{"uuid": "", "status": "Failed"}\n'
        lines = read(write(text))
        assert lines.good == {1: A}
        assert list(lines.bad) == [2, 3, 4, 5]
        assert lines.bad[2] == "the line has no status; expected a JSON object with uuid and status"
        assert lines.bad[3].startswith("the line is not valid JSON")

    @given(st.lists(RESULTS, min_size=1, max_size=20), st.sampled_from(["\n", "\r\n"]), st.sampled_from(["", "\n"]))
    def test_what_json_dumps_writes_is_read_exactly(
        self, write: Write, results: list[FlashCallResult], end: str, last: str
    ) -> None:
        """A result would be reported for another call, twice or not at all."""
        lines = [json.dumps({"uuid": result.uuid, "status": result.status}) for result in results]
        assert_same(read(write(end.join(lines) + last)), model(results, 1))


class TestEveryFile:
    """What has nothing to do with its format."""

    def test_copies_and_contradictions(self, write: Write) -> None:
        """A call would be reported with two verdicts, or a file with a copy in it refused."""
        lines = read(write("uuid,status\na,Success\nb,Failed\na,Success\na,Failed\nb,Failed\n"))
        assert (lines.good, lines.copies, list(lines.bad)) == ({3: B}, 2, [2, 5])
        assert lines.bad[2] == "contradicts line 5, which says Failed; a call has one verdict"
        assert lines.bad[5] == "contradicts line 2, which says Success; a call has one verdict"

    def test_bad_csv_cells_say_why(self, write: Write) -> None:
        """The operator could not tell what to mend."""
        lines = read(write("uuid,status\na,success\nb\n,Failed\n"))
        assert lines.bad == {
            2: 'status must be exactly "Success" or "Failed", got "success"',
            3: "the line has no status; expected a JSON object with uuid and status",
            4: "uuid must be a string of 1 to 128 visible ASCII characters, got 0 characters",
        }

    @pytest.mark.parametrize("content", [b"", b"\n \r\n", b"\xef\xbb\xbf", b"\xff\xfe"])
    def test_empty(self, write: Write, content: bytes) -> None:
        """An export that failed would pass for one without results."""
        assert "is empty" in fault(write(content))

    @pytest.mark.parametrize(
        ("content", "line"), [(b"\x80", 1), (b"uuid,status\na,Success\n\xe9,Failed\n", 3), (b"\x89PNG\r\n\x1a\n", 1)]
    )
    def test_what_is_no_text(self, write: Write, content: bytes, line: int) -> None:
        """A picture, or an export in an old encoding, would end in a traceback."""
        assert f"is no UTF-8 text (line {line})" in fault(write(content))

    @pytest.mark.parametrize("content", [b"\xff\xfeu", b"\xfe\xff\xd8\x00"])
    def test_utf_16_that_is_cut(self, write: Write, content: bytes) -> None:
        """A file cut by a full disk would end in a traceback."""
        assert "text" in fault(write(content))

    def test_what_is_no_file(self, tmp_path: Path) -> None:
        """A wrong name would end in a traceback."""
        (tmp_path / "file").touch()
        assert "is a directory" in fault(str(tmp_path))
        assert "can't be read: No such file or directory." in fault(str(tmp_path / "none"))
        assert "can't be read: Not a directory." in fault(str(tmp_path / "file" / "none"))
        assert "can't be read: File name too long." in fault(str(tmp_path / ("x" * 1000)))

    def test_standard_input(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Results could not be piped in."""
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbfuuid,status\r\na,Success\r\n")))
        assert read("-").good == {2: A}

    @settings(max_examples=300)
    @given(st.text(st.characters(exclude_categories=())) | SOUP | SOUP.map("uuid,status\n".__add__) | st.binary())
    def test_any_content_is_a_problem_or_lines(self, write: Write, content: str | bytes) -> None:
        """A file that nobody thought of would end in a traceback, or name lines that it doesn't have."""
        try:
            lines = read(write(content))
        except Problem:
            return
        text = content if isinstance(content, str) else content.decode(errors="replace")
        height = text.count("\n") + text.count("\r") + 1
        numbers = [*lines.good, *lines.bad]
        assert all(1 <= number <= height for number in numbers)
        assert len(set(numbers)) == len(numbers)

    @settings(max_examples=300)
    @given(st.lists(SOUP, max_size=8).map("\n".join))
    def test_every_line_is_accounted_for(self, write: Write, text: str) -> None:
        """A line would be left out without a word."""
        for header in ("uuid,status", '{"uuid": "z", "status": "Failed"}'):
            whole = f"{header}\n{text}"
            try:
                lines = read(write(whole))
            except Problem:
                continue
            if header.startswith("{"):
                expected = sum(1 for line in whole.split("\n") if line.strip())
            else:
                rows = csv.reader(io.StringIO(whole, newline=""))
                expected = sum(1 for row in rows if "".join(row).strip()) - 1
            assert len(lines.good) + len(lines.bad) + lines.copies == expected
