import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core.utils import gcs_utils

from mergedistill_jax.configs.splits import Split
from mergedistill_jax.corpus.sources import CorpusError
from mergedistill_jax.corpus.tfds import check_text, prepared_builder, tfds_documents
from mergedistill_jax.teachers.writer import corpus_documents
from tasks import corpora

COUNT = 60
SHARDS = 3


class TinyWiki(tfds.core.GeneratorBasedBuilder):
    """A dataset as TFDS's Wikipedia is, by language; a text holds paragraphs, and one holds none."""

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS = tuple(tfds.core.BuilderConfig(name=f"20230601.{language}") for language in ("en", "sw"))

    def _info(self):
        features = tfds.features.FeaturesDict(
            {"title": tfds.features.Text(), "text": tfds.features.Text(), "n": np.int64}
        )
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
        del dl_manager
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for i in range(COUNT):
            text = f"{self.builder_config and self.builder_config.name} {i}\n\n  Second — paragraph. " if i else " \n"
            yield i, {"title": f"Title {i}", "text": text, "n": i}


@pytest.fixture(scope="module", autouse=True)
def no_network():
    """download_and_prepare asks Google's storage first; nothing in these tests leaves the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gcs_utils, "gcs_dataset_info_files", lambda *_: None)
        patch.setattr(gcs_utils, "is_dataset_on_gcs", lambda *_: False)
        yield


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    builder = TinyWiki(config="20230601.sw", data_dir=folder)
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(num_shards=SHARDS, try_download_gcs=False)
    )
    assert builder.info.splits["train"].num_shards == SHARDS
    return str(folder)


def documents(data_dir):
    return list(tfds_documents(prepared_builder("tiny_wiki/20230601.sw", data_dir=data_dir), "train", "text"))


def test_documents_are_the_paragraphs_of_every_example(data_dir):
    found = documents(data_dir)
    assert sorted(found) == sorted(f"20230601.sw {i}\nSecond — paragraph." for i in range(1, COUNT))


def test_the_order_is_that_of_the_files(data_dir):
    """One shard after the other, each from its start, every time: TFDS would else read sixteen of each in turn."""
    builder = prepared_builder("tiny_wiki/20230601.sw", data_dir=data_dir)
    shards = [builder.as_dataset(split=f"train[{i}shard]") for i in range(SHARDS)]
    in_files = [example["n"] for shard in shards for example in shard.as_numpy_iterator()]
    assert in_files != sorted(in_files)
    found = documents(data_dir)
    assert [int(text.split()[1]) for text in found] == [n for n in in_files if n]
    assert documents(data_dir) == found


def test_a_dataset_is_registered_by_language_and_split_by_content(data_dir):
    halves = {"first": Split(stop=0.5), "rest": Split(start=0.5), "all": Split()}
    name = corpora.add_tfds("sw", "tiny_wiki/20230601.{language}", data_dir=data_dir, splits=halves)
    assert name == "tfds_sw"
    found = documents(data_dir)
    for split, share in halves.items():
        assert list(corpus_documents(name, split)) == [text for text in found if share.holds(text)]
    assert 0 < len(list(corpus_documents(name, "first"))) < len(found)
    titles = corpora.add_tfds("sw", "tiny_wiki/20230601.{language}:1.0.0", data_dir=data_dir, field="title")
    assert set(corpus_documents(titles, "all")) == {f"Title {i}" for i in range(COUNT)}
    assert set(corpus_documents(titles, "heldout")) | set(corpus_documents(titles, "train")) == {
        f"Title {i}" for i in range(COUNT)
    }


@pytest.mark.parametrize(
    "dataset",
    [
        "wikipedia/20230601.{language}",
        "tiny_wiki/20230601.en",
        "tiny_wiki/20230601.{language}:2.0.0",
        "no_such_dataset",
        "a b",
    ],
)
def test_what_is_not_prepared_is_refused_and_nothing_is_downloaded(data_dir, monkeypatch, dataset):
    monkeypatch.setattr(tfds, "builder", lambda *_, **__: pytest.fail("looked for a dataset's code"))
    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", lambda *_, **__: pytest.fail("downloaded"))
    with pytest.raises(CorpusError, match="found no prepared files in data_dir") as error:
        corpora.add_tfds("sw", dataset, data_dir=data_dir)
    assert f"`tfds build {dataset.format(language='sw')} --data_dir={data_dir}`, or download=True" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_language_split_or_feature_is_refused(data_dir):
    with pytest.raises(ValueError, match="corpus tfds: language: found ''"):
        corpora.add_tfds("", data_dir=data_dir)
    with pytest.raises(CorpusError, match=r"1\.0\.0: split: found \['train'\], expected one named 'test'"):
        corpora.add_tfds("sw", "tiny_wiki/20230601.{language}", data_dir=data_dir, source_split="test")
    builder = prepared_builder("tiny_wiki/20230601.sw", data_dir=data_dir)
    for field in ("body", "n"):
        with pytest.raises(CorpusError, match=rf"feature {field}: found \['n', 'text', 'title'\], expected a string"):
            check_text(builder, "train", field)


def test_download_prepares_what_is_missing(tmp_path):
    folder = str(tmp_path)
    name = corpora.add_tfds("en", "tiny_wiki/20230601.{language}", data_dir=folder, download=True)
    assert len(list(corpus_documents(name, "all"))) == COUNT - 1
    assert corpora.add_tfds("en", "tiny_wiki/20230601.{language}", data_dir=folder) == name


@pytest.mark.parametrize("dataset", ["no_such_dataset", "tiny_wiki/20230601.xx"])
def test_an_unknown_dataset_cannot_be_downloaded(tmp_path, dataset):
    with pytest.raises(CorpusError, match=rf"TFDS dataset {dataset}: download: found ") as error:
        corpora.add_tfds("en", dataset, data_dir=str(tmp_path), download=True)
    assert "\n" not in str(error.value)


def test_a_truncated_file_is_one_line(tmp_path):
    corpora.add_tfds("en", "tiny_wiki/20230601.{language}", data_dir=str(tmp_path), download=True)
    [file] = tmp_path.rglob("*.tfrecord*")
    file.write_bytes(file.read_bytes()[:-9])
    builder = prepared_builder("tiny_wiki/20230601.en", data_dir=str(tmp_path))
    with pytest.raises(CorpusError, match=r"split train: found .*, expected a whole dataset") as error:
        list(tfds_documents(builder, "train", "text"))
    assert "\n" not in str(error.value)
