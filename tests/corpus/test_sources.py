import bz2
import gzip
import json
import lzma

import pytest
import tensorflow as tf

from mergedistill_jax.configs.splits import Split
from mergedistill_jax.corpus import sources
from mergedistill_jax.corpus.sources import CorpusError, documents
from mergedistill_jax.teachers.writer import corpus_documents
from tasks import corpora

EVERYTHING = Split()
DOCUMENTS = ["La casa roja.\nEs vieja.", "Größe — 語言", "only one line"]
PLAIN = "\n\n  La casa roja. \nEs vieja.\n\n \t\n\nGröße — 語言\n\nonly one line"
JSONL = "".join(json.dumps({"id": i, "text": f"{text}\n\n"}) + "\n\n" for i, text in enumerate(DOCUMENTS))
WIKI = "".join(f'<doc id="{i}" title="t">\n{text}\n\n</doc>\n\n' for i, text in enumerate(DOCUMENTS))
FORMATS = {"plain": PLAIN, "jsonl": JSONL, "wikiextractor": WIKI}


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


@pytest.mark.parametrize("text_format", FORMATS)
@pytest.mark.parametrize(
    ("ending", "compress"),
    [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)],
)
def test_every_format_gives_the_same_documents_compressed_or_not(tmp_path, text_format, ending, compress):
    path = write(tmp_path, f"text{ending}", compress(FORMATS[text_format].encode()))
    assert list(documents([path, path], text_format, EVERYTHING)) == DOCUMENTS * 2


def test_windows_line_ends_change_nothing(tmp_path):
    for text_format, content in FORMATS.items():
        path = write(tmp_path, text_format, content.replace("\n", "\r\n"))
        assert list(documents([path], text_format, EVERYTHING)) == DOCUMENTS


def test_only_newline_ends_a_line_of_a_file(tmp_path):
    path = write(tmp_path, "a.txt", "a\u2028b\x85c\n")
    assert list(documents([path], "plain", EVERYTHING)) == ["a\u2028b\x85c"]


def test_empty_documents_are_none(tmp_path):
    assert list(documents([write(tmp_path, "a", "\n \n\n")], "plain", EVERYTHING)) == []
    assert list(documents([write(tmp_path, "b", '{"text": " \\n"}\n')], "jsonl", EVERYTHING)) == []
    assert list(documents([write(tmp_path, "c", "<doc>\n\n</doc>\n")], "wikiextractor", EVERYTHING)) == []


@pytest.mark.parametrize(
    ("text_format", "content", "named"),
    [
        ("plain", b"fine\n\nba\xffd\n", "line 3: found bytes that are not UTF-8"),
        ("jsonl", '{"text": "fine"}\n{"text": ', "line 2: field text: found '{\"text\": '"),
        ("jsonl", '{"body": "x"}\n', "line 1: field text"),
        ("jsonl", '{"text": null}\n', "line 1: field text"),
        ("jsonl", '["text"]\n', "line 1: field text"),
        (
            "jsonl",
            '{"text": "fine \\ud83d\\ude00"}\n{"text": "half \\ud83d"}',
            "line 2: field text: found the lone surrog",
        ),
        ("wikiextractor", "<doc>\na\n</doc>\nstray\n", "line 4: found text outside <doc>"),
        ("wikiextractor", "<doc>\na\n</doc>\n<doc>\nb\nhalf a sen", "line 6: found the end of the file inside <doc>"),
    ],
)
def test_damage_is_named_with_file_and_line(tmp_path, text_format, content, named):
    path = write(tmp_path, "damaged", content)
    with pytest.raises(CorpusError) as error:
        list(documents([path], text_format, EVERYTHING))
    assert f"{path}: {named}" in str(error.value)
    assert "\n" not in str(error.value)


LONG = "".join(f"line {i} {i * i}\n\n" for i in range(5000)).encode()


@pytest.mark.parametrize(
    ("ending", "compress"), [(".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)]
)
@pytest.mark.parametrize(
    "damage", [lambda d: d[: len(d) // 2], lambda d: d[: len(d) // 2] + bytes(9) + d[len(d) // 2 + 9 :]]
)
def test_damaged_compression_is_named_with_the_file(tmp_path, ending, compress, damage):
    path = write(tmp_path, f"text{ending}", damage(compress(LONG)))
    with pytest.raises(CorpusError, match=r"after line \d+: found damaged compressed data") as error:
        list(documents([path], "plain", EVERYTHING))
    assert path in str(error.value)


def test_missing_files_and_unknown_formats_are_refused(tmp_path):
    with pytest.raises(CorpusError, match=r"nowhere\.txt: not found"):
        list(documents([str(tmp_path / "nowhere.txt")], "plain", EVERYTHING))
    with pytest.raises(
        CorpusError, match=r"found 'xml', expected one of \['jsonl', 'mediawiki', 'parquet', 'plain', 'wikiextractor'\]"
    ):
        list(documents([], "xml", EVERYTHING))
    with pytest.raises(CorpusError, match=r"\*\.txt: found no file"):
        corpora.add_files("nothing", [str(tmp_path / "*.txt")], "plain")
    with pytest.raises(CorpusError, match="found 'xml'"):
        corpora.add_files("nothing", [], "xml")


MANY = [f"document number {i}" for i in range(20_000)]


def test_splits_have_the_stated_shares_and_do_not_depend_on_what_else_there_is():
    assert (corpora.SPLITS["train"].start, corpora.SPLITS["heldout"].stop) == (0.01, 0.01)
    members = {name: {text for text in MANY if split.holds(text)} for name, split in corpora.SPLITS.items()}
    assert members["all"] == set(MANY)
    assert not members["heldout"] & members["train"]
    assert members["heldout"] | members["train"] == set(MANY)
    assert members["transfer"] < members["train"]
    for name, share in (("heldout", 0.01), ("transfer", 0.1)):
        deviation = (share * (1 - share) / len(MANY)) ** 0.5
        assert len(members[name]) / len(MANY) == pytest.approx(share, abs=4 * deviation)


def test_a_document_keeps_its_split():
    """A golden: another hash would move documents between teachers, students and scores."""
    held = [i for i, text in enumerate(MANY[:600]) if corpora.SPLITS["heldout"].holds(text)]
    assert held[:4] == [56, 99, 120, 134]


def test_a_corpus_task_gives_the_split_in_file_order(tmp_path):
    for part in range(3):
        write(tmp_path, f"part{part}.txt", "\n\n".join(MANY[part * 100 : part * 100 + 100]))
    name = corpora.add_files("many", [str(tmp_path / "part*.txt")], "plain", {"half": Split(stop=0.5), "all": Split()})
    assert list(corpus_documents(name, "all")) == MANY[:300]
    assert list(corpus_documents(name, "half")) == [text for text in MANY[:300] if Split(stop=0.5).holds(text)]
    with pytest.raises(ValueError, match=r"split: found 'train', expected one of \['all', 'half'\]"):
        list(corpus_documents(name, "train"))
    with pytest.raises(ValueError, match="found 'none_such', expected a registered task"):
        list(corpus_documents("none_such", "all"))


def test_damage_found_while_streaming_is_one_line(tmp_path):
    """tf.data would wrap it into a traceback of its own."""
    path = write(tmp_path, "text.txt", b"fine\n\nba\xffd\n")
    name = corpora.add_files("damaged", [path], "plain", {"all": Split()})
    with pytest.raises(ValueError, match="line 3: found bytes that are not UTF-8") as error:
        list(corpus_documents(name, "all"))
    assert path in str(error.value)
    assert "\n" not in str(error.value)
    assert not isinstance(error.value, tf.errors.OpError)


def test_wikiextractor_tasks_are_named_by_language(tmp_path):
    write(tmp_path, "es.txt", WIKI)
    assert corpora.add_wikiextractor("es", str(tmp_path), "{language}.txt", {"all": Split()}) == "wikipedia_es"
    assert list(corpus_documents("wikipedia_es", "all")) == DOCUMENTS


def test_grammar_tasks_divide_by_document_number():
    name = corpora.add_grammar("en", {"train": (0, 5), "heldout": (5, 7)})
    train, heldout = (list(corpus_documents(name, split)) for split in ("train", "heldout"))
    corpora.add_grammar("en", {"all": (0, 7)})
    assert train + heldout == list(corpus_documents(name, "all"))
    assert (len(train), len(heldout)) == (5, 2)
    with pytest.raises(ValueError, match="language: found 'xx'"):
        corpora.add_grammar("xx", {})


@pytest.mark.real_data
@pytest.mark.parametrize("language", ["de", "en", "es", "tr"])
def test_wikipedia_reads(data_folder, language):
    name = corpora.add_wikiextractor(language, str(data_folder / "text/wikipedia"), "{language}.wikiextractor.txt.xz")
    texts = [text for _, text in zip(range(50), corpus_documents(name, "all"), strict=False)]
    assert len(texts) == 50
    assert all(text and "<doc" not in text and "</doc>" not in text for text in texts)
    assert sources.FORMATS.keys() == {"plain", "jsonl", "wikiextractor", "mediawiki", "parquet"}
