import json

import pytest

from mergedistill_jax.configs.splits import Split
from mergedistill_jax.corpus.sources import CorpusError, documents

EVERYTHING = Split()


def write(folder, name, content):
    path = folder / name
    path.write_text(content)
    return str(path)


def doc(title, text, number=1):
    return f'<doc id="{number}" url="https://x?curid={number}" title="{title}">\n{title}\n\n{text}\n\n</doc>\n'


def row(title, text, number=1, url="https://x?curid={}"):
    return json.dumps({"id": str(number), "url": url.format(number), "title": title, "text": text}) + "\n"


def read(path, text_format="wikiextractor"):
    return list(documents([path], text_format, EVERYTHING))


@pytest.mark.parametrize(
    ("escaped", "text"),
    [
        ("Research &amp; development", "Research & development"),
        ("if a &lt; b and b &gt; c", "if a < b and b > c"),
        ("Men&#x27;s &quot;race&quot; and men&#39;s", "Men's \"race\" and men's"),
        ("the escape &amp;lt; of HTML, and &amp;nbsp;", "the escape &lt; of HTML, and &nbsp;"),
        ("&lt;templatestyles src=&quot;x&quot; /&gt;", '<templatestyles src="x" />'),
        ("&lt;doc id=&quot;2&quot;&gt;", '<doc id="2">'),
    ],
)
def test_version_3_is_escaped_and_its_escapes_are_resolved_once(tmp_path, escaped, text):
    assert read(write(tmp_path, "a", doc("T", escaped))) == [f"T\n{text}"]
    assert read(write(tmp_path, "b", row("T", escaped))) == [text]
    assert read(write(tmp_path, "c.jsonl", row("T", escaped)), "jsonl") == [text]


@pytest.mark.parametrize("evidence", ["AT&T", "a < b", "x -> y", "&nbsp;", "&c."])
def test_version_2_is_not_escaped_and_what_looks_like_an_escape_is_text(tmp_path, evidence):
    """The evidence may stand behind the document in question: the whole file tells."""
    about_html = "In HTML, &amp; stands for an ampersand."
    for texts in ([about_html, evidence], [evidence, about_html]):
        path = write(tmp_path, "a", "".join(doc(f"T{i}", text, i) for i, text in enumerate(texts)))
        assert read(path) == [f"T{i}\n{text}" for i, text in enumerate(texts)]
        path = write(tmp_path, "b", "".join(row("T", text, i) for i, text in enumerate(texts)))
        assert read(path) == texts
        assert read(path, "jsonl") == texts


def test_titles_are_escaped_in_both_versions(tmp_path):
    """A title of MediaWiki can hold no entity, so that nothing is lost."""
    assert read(write(tmp_path, "a", doc("AT&amp;T", "In the U.S. & Canada."))) == ["AT&T\nIn the U.S. & Canada."]
    assert read(write(tmp_path, "b", doc("AT&amp;T", "In the U.S. &amp; Canada."))) == ["AT&T\nIn the U.S. & Canada."]
    text = "AT&amp;T\n\nIn the U.S. & Canada."
    assert read(write(tmp_path, "c", row("AT&amp;T", text))) == ["AT&T\nIn the U.S. & Canada."]


def test_other_json_lines_are_left_as_they_are(tmp_path):
    """Wikipedia of the Hugging Face hub has the same fields, other addresses, and no escapes."""
    path = write(tmp_path, "a", row("T", "&amp; is HTML", url="https://en.wikipedia.org/wiki/T{}"))
    assert read(path, "jsonl") == ["&amp; is HTML"]
    assert read(write(tmp_path, "b", '{"text": "&lt;p&gt;"}\n'), "jsonl") == ["&lt;p&gt;"]


def test_a_line_that_only_looks_like_a_header_is_text(tmp_path):
    text = "<doc>\n<doc id=1> is SGML\n<document>"
    assert read(write(tmp_path, "a", doc("T", text))) == [f"T\n{text}"]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ('[{"text": "a"}]', 'line 1: field text: found \'[{"text": "a"}]\', expected a JSON object a line'),
        ('{"text": 5}', "line 1: field text: found 5, expected a string"),
        ('{"text": ["a", "b"]}', 'line 1: field text: found ["a", "b"], expected a string'),
        ('{"text": NaN}', "line 1: field text: found NaN, expected a string"),
        (
            '{"content": "a", "id": 1}',
            "line 1: field text: found the fields ['content', 'id'], expected one named 'text'",
        ),
        ("[" * 100_000, "line 1: field text: found '[[[[[[[["),
        ("null", "line 1: field text: found 'null', expected a JSON object a line"),
        ('{"text": "a"}{"text": "b"}', "line 1: field text: found"),
    ],
)
def test_what_is_no_line_of_json_with_text_is_named(tmp_path, content, found):
    path = write(tmp_path, "a.jsonl", f"\n{content}".lstrip("\n"))
    with pytest.raises(CorpusError) as error:
        read(path, "jsonl")
    assert f"{path}: {found}" in str(error.value)
    assert "\n" not in str(error.value)


def test_the_text_may_stand_in_another_field(tmp_path):
    path = write(tmp_path, "a.jsonl", '{"content": "a", "text": "b"}\n')
    assert list(documents([path], "jsonl", EVERYTHING, field="content")) == ["a"]
