"""Compressed files: what is whole, what is damaged, and what does not fit its name."""

import bz2
import gzip
import io
import lzma
import random

import pyarrow as pa
import pytest

from mergedistill_jax.configs.splits import Split
from mergedistill_jax.corpus import reading
from mergedistill_jax.corpus.reading import CorpusError, open_text
from mergedistill_jax.corpus.sources import documents

EVERYTHING = Split()


def zstandard(data):
    return pa.compress(data, codec="zstd", asbytes=True)


PACKERS = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstandard}
TEXTS = [f"document {number} of {number * number}" for number in range(9000)]
PLAIN = "\n\n".join(TEXTS).encode()


def write(folder, name, content):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def read(path, text_format="plain", **options):
    return list(documents([path], text_format, EVERYTHING, **options))


@pytest.mark.parametrize("ending", PACKERS)
def test_files_of_several_streams_are_read_to_their_end(tmp_path, ending):
    pack = PACKERS[ending]
    parts = [PLAIN[:1000], PLAIN[1000:1000], PLAIN[1000:50_000], PLAIN[50_000:]]
    assert read(write(tmp_path, f"a{ending}", b"".join(pack(part) for part in parts))) == TEXTS


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz"])
def test_zeros_after_the_last_stream_are_padding_and_anything_else_is_damage(tmp_path, ending):
    """Python's own readers end without a word where a later stream does not begin as one: half a corpus, silently."""
    data = PACKERS[ending](PLAIN)
    assert read(write(tmp_path, f"a{ending}", data + bytes(8))) == TEXTS
    path = write(tmp_path, f"b{ending}", data + b"\x55" * 8 + PACKERS[ending](b"more"))
    with pytest.raises(CorpusError, match=rf"b{ending}: after line \d+: found damaged compressed data"):
        read(path)


@pytest.mark.parametrize("block_bytes", [1, 7, 4096])
@pytest.mark.parametrize("ending", ["", *PACKERS])
def test_blocks_change_nothing(tmp_path, monkeypatch, ending, block_bytes):
    text = "\ufeffGröße\r\n\r\n語言\r\n \r\nend".encode()
    path = write(tmp_path, f"a{ending}", PACKERS.get(ending, bytes)(text))
    monkeypatch.setattr(reading, "BLOCK_BYTES", block_bytes)
    assert read(path) == ["Größe", "語言", "end"]


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("a.gz", b"just text\n", "found text, expected gzip data, as its name ends"),
        ("a.txt.bz2", b"just text\n", "found text, expected bzip2 data"),
        ("a.zst", b"{}\n", "found text, expected Zstandard data"),
        ("a.xz", gzip.compress(PLAIN), "found gzip data, expected xz data"),
        ("a.txt", gzip.compress(PLAIN), "found gzip data, expected text, or a name that ends as its compression"),
        ("a.jsonl", bz2.compress(PLAIN), "found bzip2 data, expected text"),
        ("a.txt", lzma.compress(PLAIN), "found xz data, expected text"),
        ("a.json", zstandard(PLAIN), "found Zstandard data, expected text"),
        ("a.txt", b"PK\x03\x04rest", "found zip data, expected text"),
        ("a.txt", b"PAR1rest", "found parquet data, expected text"),
        ("a.gz", b"", "found an empty file, expected gzip data"),
        ("a.zip", b"PK\x03\x04", "found an archive, expected text, or text compressed as .gz, .bz2, .xz, .zst"),
        ("a.txt.7z", b"", "found an archive"),
        ("a.LZ4", b"", "found an archive"),
        ("a.tar.gz", gzip.compress(b"", mtime=0), "found an archive"),
        ("a.tgz", gzip.compress(b"", mtime=0), "found an archive"),
        ("a.txt", "text".encode("utf-16"), "found the byte order mark of UTF-16, expected UTF-8"),
        ("a.txt", b"\xfe\xff\0t", "found the byte order mark of UTF-16, expected UTF-8"),
    ],
)
def test_what_does_not_fit_its_name_is_refused_in_one_line(tmp_path, name, content, found):
    path = write(tmp_path, name, content)
    with pytest.raises(CorpusError) as error:
        read(path)
    assert str(error.value).startswith(f"{path}: {found}")
    assert "\n" not in str(error.value)


def test_text_that_begins_like_a_compression_is_text(tmp_path):
    assert read(write(tmp_path, "a.txt", "BZh is how bzip2 begins.")) == ["BZh is how bzip2 begins."]


@pytest.mark.parametrize("text_format", ["plain", "jsonl", "wikiextractor", "mediawiki"])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_a_byte_order_mark_is_no_text(tmp_path, text_format, ending):
    content = {
        "plain": "Ein Wort.",
        "jsonl": '{"text": "Ein Wort."}',
        "wikiextractor": "<doc>\nEin Wort.\n</doc>\n",
        "mediawiki": "<mediawiki><page><ns>0</ns><revision><text>Ein Wort.</text></revision></page></mediawiki>",
    }[text_format]
    data = b"\xef\xbb\xbf" + content.encode()
    assert read(write(tmp_path, f"a{ending}", PACKERS.get(ending, bytes)(data)), text_format) == ["Ein Wort."]


def test_line_ends_of_unix_windows_and_old_macs(tmp_path):
    for end in ("\n", "\r\n", "\r"):
        assert read(write(tmp_path, "a", f"a{end}b{end}{end}c{end}")) == ["a\nb", "c"]
        assert read(write(tmp_path, "b", f'{{"text": "a"}}{end}{end}{{"text": "c"}}'), "jsonl") == ["a", "c"]


def test_a_line_and_a_document_without_an_end_are_refused_in_bounded_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_LINE_BYTES", 2**20)
    path = write(tmp_path, "a.bz2", bz2.compress(b"a" * 2**22))
    with (
        pytest.raises(CorpusError, match=r"a\.bz2: line 1: found more than 1048576 bytes, expected lines of text"),
        open_text(path) as lines,
    ):
        next(lines)
    monkeypatch.setattr("mergedistill_jax.corpus.sources.MAX_DOCUMENT_CHARACTERS", 1000)
    with pytest.raises(CorpusError, match="expected blank lines between documents"):
        read(write(tmp_path, "b", "a sentence a line\n" * 1000))
    monkeypatch.setattr("mergedistill_jax.corpus.wikiextractor.MAX_DOCUMENT_CHARACTERS", 1000)
    with pytest.raises(CorpusError, match=r"<doc>: found more than 1000 characters"):
        read(write(tmp_path, "c", "<doc>\n" + "a sentence a line\n" * 1000), "wikiextractor")


class FailingFile(io.BytesIO):
    """A file whose disk or network fails at the third read."""

    reads = 0

    def read(self, size=-1):
        self.reads += 1
        if self.reads > 3:
            raise OSError("connection lost")
        return super().read(min(size, 500))


@pytest.mark.parametrize("ending", ["", *PACKERS])
def test_a_failing_read_is_no_damage(ending):
    """Or a corpus with damaged='keep_whole' would be as long as the network was up."""
    with pytest.raises(OSError, match="connection lost"):
        list(reading.decompressed(f"a{ending}", FailingFile(PACKERS.get(ending, bytes)(PLAIN))))


CUT = {
    "plain": "\n\n".join(TEXTS),
    "jsonl": "".join(f'{{"text": "{text}"}}\n' for text in TEXTS),
    "wikiextractor": "".join(f"<doc>\n{text}\n</doc>\n" for text in TEXTS),
    "mediawiki": "<mediawiki>"
    + "".join(f"<page><ns>0</ns><revision><text>{text}</text></revision></page>" for text in TEXTS)
    + "</mediawiki>",
}


@pytest.mark.parametrize("text_format", CUT)
@pytest.mark.parametrize("ending", PACKERS)
def test_a_file_that_is_cut_short_is_refused_or_read_for_what_is_whole(tmp_path, caplog, text_format, ending):
    data = PACKERS[ending](CUT[text_format].encode())
    path = write(tmp_path, f"a{ending}", data[: len(data) // 2])
    with pytest.raises(CorpusError, match=r"expected a whole file, or damaged='keep_whole' to read what is whole"):
        read(path, text_format)
    whole = read(path, text_format, damaged="keep_whole")
    # A compressor's block may be larger than half of the file: then nothing is whole.
    assert whole == TEXTS[: len(whole)]
    assert len(whole) > 1000 or ending in {".bz2", ".zst"}
    assert read(path, text_format, damaged="keep_whole") == whole
    assert any(f"{path}: " in record.getMessage() and "is read" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("text_format", ["jsonl", "wikiextractor", "mediawiki"])
def test_a_cut_without_compression_is_found_by_the_format(tmp_path, text_format):
    content = CUT[text_format]
    end = len(content) // 2
    path = write(tmp_path, "a", content[: content.index("document", end) + 3])
    with pytest.raises(CorpusError):
        read(path, text_format)
    whole = read(path, text_format, damaged="keep_whole")
    assert whole == TEXTS[: len(whole)]
    assert len(whole) > 4000


def test_damage_in_the_middle_of_a_dump_keeps_the_pages_before_it(tmp_path):
    content = CUT["mediawiki"].replace("<text>document 700 ", "<tex>document 700 ")
    path = write(tmp_path, "a.xml", content)
    with pytest.raises(CorpusError, match=r"after page 700: found damaged XML \(mismatched tag\)"):
        read(path, "mediawiki")
    assert read(path, "mediawiki", damaged="keep_whole") == TEXTS[:700]
    with pytest.raises(CorpusError, match="syntax error"):
        read(write(tmp_path, "b.xml", "no dump at all"), "mediawiki", damaged="keep_whole")


def test_bad_lines_that_are_not_the_last_are_refused_also_where_cut_files_are_read(tmp_path):
    path = write(tmp_path, "a", '{"text": "a"}\n{"text": \n{"text": "b"}\n')
    with pytest.raises(CorpusError, match="line 2: field text: found"):
        read(path, "jsonl", damaged="keep_whole")
    path = write(tmp_path, "b", b"a\n\nb\xff\n\nc\n")
    with pytest.raises(CorpusError, match="line 3: found bytes that are not UTF-8"):
        read(path, damaged="keep_whole")
    assert read(write(tmp_path, "c", "a\n\nGrö".encode()[:-1]), damaged="keep_whole") == ["a"]


def test_damaged_has_two_values_and_parquet_only_one():
    with pytest.raises(CorpusError, match=r"damaged: found 'skip', expected one of \('refuse', 'keep_whole'\)"):
        list(documents([], "plain", EVERYTHING, damaged="skip"))
    with pytest.raises(
        CorpusError, match="damaged: found 'keep_whole', expected 'refuse': a parquet file is read from"
    ):
        list(documents([], "parquet", EVERYTHING, damaged="keep_whole"))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ('{"text": "a"}\n', "JSON"),
        ('[\n{"text": "a"}\n]\n', None),
        ('[{"text": "a"}, {"text": "b"}]\n', "JSON"),
        ('\n<doc id="1" url="u" title="A">\nA\n</doc>\n', "WikiExtractor output"),
        ('<mediawiki xml:lang="en">\n', "a MediaWiki dump"),
        ("<!DOCTYPE html>\n<html>\n", "HTML"),
        ("%PDF-1.7\n", "PDF"),
        ("{a set of words}\n", None),
        ("<3 she wrote.\n", None),
    ],
)
def test_plain_text_that_begins_as_another_format_is_refused(tmp_path, content, found):
    path = write(tmp_path, "a.txt", content)
    if found is None:
        assert read(path)
        return
    with pytest.raises(CorpusError, match=f"as {found}.* begins, expected plain text"):
        read(path)


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le"])
def test_utf_16_without_a_mark_is_refused(tmp_path, encoding):
    with pytest.raises(CorpusError, match="expected UTF-8: is it UTF-16"):
        read(write(tmp_path, "a.txt", "Ada sang.\n".encode(encoding)))


def test_a_zstandard_file_that_is_cut_short_is_read_to_its_last_blocks(tmp_path):
    generator = random.Random(1)
    texts = [f"{generator.getrandbits(400):x}" for _ in range(10_000)]
    compressed = zstandard("\n\n".join(texts).encode())
    kept = read(write(tmp_path, "a.zst", compressed[: len(compressed) // 2]), damaged="keep_whole")
    assert kept == texts[: len(kept)]
    assert len(kept) > 3000  # half of them but for a block of 128 KB
