"""Handles, the module cache and what is said when a module is missing or damaged."""

import shutil

import numpy as np
import pytest
import tensorflow as tf

from tfrec.encoders.hub import cached_folder, load_module, missing_part, module_version, resolve
from tfrec.errors import TfrecError

URL = "http://127.0.0.1:9/module/1"  # nothing listens on the discard port


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    class Doubler(tf.Module):
        def __init__(self):
            super().__init__()
            self.factor = tf.Variable([2.0] * 1000)

        @tf.function(input_signature=[tf.TensorSpec([], tf.float32)])
        def __call__(self, number):
            return number * self.factor[0]

    folder = tmp_path_factory.mktemp("modules") / "doubler"
    tf.saved_model.save(Doubler(), str(folder))
    return folder


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_folder_is_a_handle(module):
    assert load_module(str(module))(3.0).numpy() == 6.0


def test_a_cached_url_needs_no_network(module, cache):
    shutil.copytree(module, cached_folder(URL))
    assert cached_folder(URL).parent == cache
    assert load_module(URL)(3.0).numpy() == 6.0


def test_neither_network_nor_cache(cache):
    with pytest.raises(TfrecError) as error:
        load_module(URL)
    message = str(error.value)
    assert URL in message
    assert "tf-hub-format=compressed" in message
    assert str(cached_folder(URL)) in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "lost", ["saved_model.pb", "variables/variables.index", "variables/variables.data-00000-of-00001"]
)
def test_a_half_written_cache_is_put_aside(module, cache, lost):
    folder = cached_folder(URL)
    shutil.copytree(module, folder)
    (folder / lost).unlink()
    with pytest.raises(TfrecError, match="incomplete"):
        load_module(URL)
    assert not folder.exists()
    assert len(list(folder.parent.glob(f"{folder.name}.incomplete-*"))) == 1


def test_every_half_written_cache_is_put_aside(cache):
    """Also the second one of a process, or of another one with the same number."""
    for _ in range(2):
        cached_folder(URL).mkdir(parents=True)
        (cached_folder(URL) / "index.html").write_text("<html>")
        with pytest.raises(TfrecError, match="incomplete"):
            load_module(URL)
    assert len(list(cached_folder(URL).parent.glob("*.incomplete-*/index.html"))) == 2


@pytest.mark.parametrize("handle", ["no/such/folder", "."])
def test_what_is_no_module_is_refused(handle, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TfrecError, match=r"Expected a folder with `saved_model.pb`"):
        resolve(handle)


def test_damaged_variables_are_refused(module, tmp_path):
    shutil.copytree(module, tmp_path / "copy")
    data = tmp_path / "copy" / "variables" / "variables.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:100])
    assert missing_part(tmp_path / "copy") is None
    with pytest.raises(TfrecError, match="damaged"):
        load_module(str(tmp_path / "copy"))


def test_version_is_of_the_content_not_of_the_place(module, tmp_path):
    shutil.copytree(module, tmp_path / "copy")
    assert module_version(str(tmp_path / "copy")) == module_version(str(module))
    shutil.copytree(module, tmp_path / "other")
    data = tmp_path / "other" / "variables" / "variables.data-00000-of-00001"
    changed = np.frombuffer(data.read_bytes(), np.uint8).copy()
    changed[10] ^= 1
    data.write_bytes(changed.tobytes())
    assert module_version(str(tmp_path / "other")) != module_version(str(module))
