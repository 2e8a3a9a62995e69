"""The one reader of tables is strict, and says line and column; what is written well reads the same in every format."""

import pytest

from infra.errors import UserError
from infra.rows import Column, decoded, read_strictly, read_table

COLUMNS = (
    Column("file", ("path", "video"), required=True, what="the path of a video"),
    Column("caption", ("text", "prompt")),
    Column("start", text=False),
)
SAME = [(2, {"file": "a.mp4", "caption": "a fox, running"}), (3, {"file": "b.mp4", "start": "0.5"})]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (".csv", 'file,caption,start\na.mp4,"a fox, running",\nb.mp4, ,0.5\n'),
        (".csv", "\r\n".join(["File;CAPTION;Start", "a.mp4;a fox, running;", "b.mp4;;0.5"])),
        (".tsv", "file\tcaption\tstart\na.mp4\ta fox, running\t\nb.mp4\t\t0.5\n"),
        (".jsonl", '\n{"file": "a.mp4", "caption": " a fox, running"}\n{"file": "b.mp4", "start": "0.5"}\n'),
        (".ndjson", '\n{"File": "a.mp4", "caption": "a fox, running"}\n{"file": "b.mp4", "start": "0.5"}'),
    ],
)
def test_each_format_says_the_same(kind, text):
    rows, flaws = read_table(text, kind, COLUMNS)
    assert flaws == []
    assert [(row.line, row.values) for row in rows] == SAME


@pytest.mark.parametrize(
    ("kind", "text", "says"),
    [
        (".csv", "file,caption\na.mp4,a fox, running\n", "line 2: 3 cells; the header has 2"),
        (".csv", "file,caption,start\na.mp4,a fox, running\n", "line 2, column start: ' running' begins with a space"),
        (".csv", "file,caption,start\na.mp4\n", "line 2: 1 cell; the header has 3"),
        (".csv", "file,text\na.mp4,b\n", "line 1: unknown column 'text' (did you mean `caption`?)"),
        (".csv", "file,captoin\na.mp4,b\n", "line 1: unknown column 'captoin' (did you mean `caption`?)"),
        (".csv", "path,caption\na.mp4,b\n", "no column `file` among path, caption; expected it in every table; rename `path` to `file`"),
        (".csv", "file,file\na.mp4,b.mp4\n", "line 1: column file appears twice"),
        (".csv", 'file,caption\na.mp4,"a fox\n', "not CSV"),
        (".csv", 'file,caption\na.mp4,"a" fox\n', "line 2: not CSV"),
        (".csv", "file,caption\n,a fox\n", "line 2: no `file`; expected the path of a video"),
        (".csv", "file,caption\na.mp4,a\x00fox\n", "line 2, column caption: 'a\\x00fox' holds a control character"),
        (".csv", "", "line 1: no column `file` among nothing"),
        (".tsv", "file\tcaption\na.mp4\ta\tb\n", "line 2: 3 cells; the header has 2"),
        (".jsonl", '{"file": "a.mp4", "text": "b"}\n', "line 1: unknown column 'text' (did you mean `caption`?)"),
        (".jsonl", '{"video": "a.mp4"}\n', "line 1: no `file` among video"),
        (".jsonl", '{"file": "a.mp4", "file": "b.mp4"}\n', "line 1: not JSON (`file` appears twice)"),
        (".jsonl", '{"file": "a.mp4", "File": "b.mp4"}\n', "line 1: a key of file, File appears twice"),
        (".jsonl", '{"file": "a.mp4", "caption": 5}\n', "line 1, column caption: 5 is not text"),
        (".jsonl", '{"file": "a.mp4", "caption": ["b"]}\n', 'line 1, column caption: ["b"] is not text'),
        (".jsonl", '{"file": "a.mp4", "caption": "\\ud83d"}\n', "line 1, column caption: '\\ud83d' holds a control"),
        (".jsonl", '{"file": "a.mp4", "start": NaN}\n', "line 1: not JSON (NaN is not a JSON number)"),
        (".jsonl", '{"file": "a.mp4"}\n\n["b.mp4"]\n', 'line 3: ["b.mp4"] is not an object'),
        (".jsonl", '{"file": "a.mp4"\n', "line 1: not JSON"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_with_its_line_and_column(kind, text, says):
    with pytest.raises(UserError) as refused:
        read_strictly("list", text, kind, COLUMNS, code="invalid_manifest")
    assert says in refused.value.message
    assert refused.value.message.startswith("list, line ")
    assert "\n" not in refused.value.message


def test_every_flaw_is_found_and_the_first_is_said_with_the_number_of_others():
    text = "file,caption\na.mp4,b,c\nb.mp4,good\n,d\n"
    rows, flaws = read_table(text, ".csv", COLUMNS)
    assert [flaw.line for flaw in flaws] == [2, 4]
    assert rows[0].values == {"file": "b.mp4", "caption": "good"}
    with pytest.raises(UserError, match=r"line 2: 3 cells.* \(1 more like this\)\."):
        read_strictly("list", text, ".csv", COLUMNS, code="invalid_manifest")


def test_text_that_is_not_utf8_is_refused():
    assert decoded(b"\xef\xbb\xbfa", "list", "x") == "a"
    with pytest.raises(UserError, match="list is UTF-16"):
        decoded("file".encode("utf-16"), "list", "x")
    with pytest.raises(UserError, match="byte 1 is not UTF-8"):
        decoded(b"a\xff", "list", "x")
