import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mergedistill_jax.corpus import parquet
from mergedistill_jax.corpus.parquet import parquet_documents
from mergedistill_jax.corpus.sources import CorpusError
from mergedistill_jax.teachers.writer import corpus_documents
from tasks import corpora

TEXTS = ["La casa roja.\n\n Es vieja. \n", "", "Größe — 語言", " \n ", *(f"Number {i} of many." for i in range(500))]
DOCUMENTS = ["La casa roja.\nEs vieja.", "Größe — 語言", *TEXTS[4:]]


def table(texts=TEXTS, **columns):
    """The columns of the hub's Wikipedia."""
    ids = [str(i) for i in range(len(texts))]
    return pa.table({"id": ids, "url": ids, "title": ids, "text": texts} | columns)


def write(folder, content, name="train.parquet", **options):
    pq.write_table(content, folder / name, **options)
    return str(folder / name)


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip"])
@pytest.mark.parametrize("rows", [3, 100, 10_000])
def test_row_groups_and_compression_change_nothing(tmp_path, rows, compression):
    path = write(tmp_path, table(), row_group_size=rows, compression=compression)
    assert list(parquet_documents(path)) == DOCUMENTS


def test_large_strings_and_dictionaries_are_text_too(tmp_path):
    assert list(parquet_documents(write(tmp_path, table(pa.array(TEXTS, pa.large_string()))))) == DOCUMENTS
    assert list(parquet_documents(write(tmp_path, table(["same"] * 300)))) == ["same"] * 300


@pytest.mark.parametrize(
    "layout",
    [
        pa.string_view(),
        pa.large_string(),
        pa.dictionary(pa.int32(), pa.string()),
    ],
    ids=str,
)
def test_strings_are_read_in_every_layout(tmp_path, layout):
    path = write(tmp_path, table(pa.array(TEXTS).cast(layout)))
    assert pq.read_schema(path).field("text").type == layout
    assert list(parquet_documents(path)) == DOCUMENTS


def test_the_text_may_stand_in_another_column(tmp_path):
    path = write(tmp_path, table(content=TEXTS[::-1]))
    assert list(parquet_documents(path, field="content")) == DOCUMENTS[::-1]
    with pytest.raises(CorpusError, match=r"columns: found \['id'.*expected one named 'body'"):
        list(parquet_documents(path, field="body"))


def test_rows_are_decoded_a_few_at_a_time_where_they_are_long(tmp_path):
    path = write(tmp_path, table(["x" * 2**22] * 20), use_dictionary=False)
    assert parquet._batch_rows(pq.ParquetFile(path), "text") in {3, 4}
    assert len(list(parquet_documents(path))) == 20


def test_a_large_row_group_is_not_read_at_once(tmp_path, monkeypatch):
    """The whole file is one row group, and the first document is there when a small part of it is read."""
    long = [f"{i} " + f"{i * i} " * 300 for i in range(10_000)]
    path = write(tmp_path, table(long), compression="none", use_dictionary=False, row_group_size=len(long))
    read = 0
    fill = parquet._Stream.readinto

    def count(stream, buffer):
        nonlocal read
        filled = fill(stream, buffer)
        read += filled
        return filled

    monkeypatch.setattr(parquet._Stream, "readinto", count)
    documents = parquet_documents(path)
    assert next(documents) == long[0].strip()
    size = (tmp_path / "train.parquet").stat().st_size
    assert size > 10_000_000
    assert read < size / 5
    assert sum(1 for _ in documents) == len(long) - 1
    assert read >= sum(map(len, long))


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (
            table().rename_columns(["id", "url", "title", "body"]),
            r"columns: found \['id', 'url', 'title', 'body'\], expected one named 'text'",
        ),
        (table(list(range(5))), "column text: found int64, expected strings"),
        (table(["a", "b", None]), "row 2: field text: found null, expected a string"),
    ],
)
def test_another_table_is_refused(tmp_path, content, named):
    path = write(tmp_path, content)
    with pytest.raises(CorpusError, match=named) as error:
        list(parquet_documents(path))
    assert path in str(error.value)
    assert "\n" not in str(error.value)


def halved(data):
    return data[: len(data) // 2]


def emptied(_):
    return b""


def other(_):
    return b"text" * 99


def flipped(data):
    """A few bytes of the texts are others; the page's checksum tells."""
    at = data.index(b"Number 250")
    return data[:at] + b"Xumber" + data[at + 6 :]


@pytest.mark.parametrize("damage", [halved, emptied, other, flipped])
def test_damage_is_one_line_that_names_the_file(tmp_path, damage):
    path = tmp_path / "train.parquet"
    write(tmp_path, table(), compression="none", use_dictionary=False, write_page_checksum=True)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(CorpusError, match="expected a whole parquet file") as error:
        list(parquet_documents(str(path)))
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(CorpusError, match=r"none\.parquet: not found"):
        list(parquet_documents(str(tmp_path / "none.parquet")))


def test_parquet_files_are_registered_by_language(tmp_path):
    folder = tmp_path / "20231101.sw"
    folder.mkdir()
    for part in (1, 0):
        write(folder, table([f"Ukurasa {part} {i}." for i in range(3)]), f"train-0000{part}-of-00002.parquet")
    name = corpora.add_parquet("sw", str(tmp_path), "20231101.{language}/*.parquet")
    assert name == "parquet_sw"
    assert list(corpus_documents(name, "all")) == [f"Ukurasa {part} {i}." for part in (0, 1) for i in range(3)]


def test_two_columns_of_one_name_are_refused(tmp_path):
    path = write(tmp_path, pa.table([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]))
    with pytest.raises(CorpusError, match=r"found \['text', 'text'\], expected one named 'text'"):
        list(parquet_documents(path))
