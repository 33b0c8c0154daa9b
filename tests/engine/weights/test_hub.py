"""Fetching from a Hub that is faked at its HTTP edge."""

import errno

import httpx2
import pytest
from huggingface_hub import constants

from engine.errors import LoadError
from engine.weights.files import ModelRef, resolve
from engine.weights.hub import Repo, parse_repo
from engine.weights.hub_token import read_token

PLAIN = {
    "config.json": b"{}",
    "tokenizer.json": b'{"a tokenizer": 1}',
    "generation_config.json": b'{"defaults": 1}',
    "model.safetensors": b"weights",
}
OTHER = {
    "README.md": b"read me",
    "pytorch_model.bin": b"pickle",
    "consolidated.safetensors": b"the same weights under other names",
    "original/model.safetensors": b"and again",
}
GGUF = {"tiny.Q8_0.gguf": b"packed", "tiny.Q4_0.gguf": b"packed more", "README.md": b"read me"}


def test_only_what_a_model_needs_is_downloaded(hub):
    hub.files = {**PLAIN, **OTHER}
    files = resolve(ModelRef(model="org/tiny"))
    assert sorted(hub.downloads) == sorted(PLAIN)
    assert files.name == "org/tiny"
    assert files.kind == "plain"
    assert [path.read_bytes() for path in files.weights] == [b"weights"]


def test_what_is_in_the_cache_is_not_downloaded_again(hub):
    hub.files = PLAIN
    first = resolve(ModelRef(model="org/tiny"))
    hub.downloads.clear()
    assert resolve(ModelRef(model="org/tiny")) == first
    assert hub.downloads == []


def test_without_a_network_the_cache_serves_and_a_warning_says_so(hub, caplog):
    hub.files = PLAIN
    first = resolve(ModelRef(model="org/tiny"))
    hub.failure = httpx2.ConnectError("Name or service not known")
    assert resolve(ModelRef(model="org/tiny")) == first
    assert "org/tiny is served from the cache" in caplog.text


def test_a_repository_of_one_gguf_model_needs_no_file_name(hub):
    hub.files = {"tiny.Q4_0.gguf": b"packed", "mmproj-tiny.gguf": b"eye", "config.json": b"{}"}
    files = resolve(ModelRef(model="org/tiny"))
    assert hub.downloads == ["tiny.Q4_0.gguf"]
    assert (files.kind, files.name) == ("gguf", "org/tiny")


@pytest.mark.parametrize("file", ["4", "q4_0", "*Q4_0*", "tiny.Q4_0.gguf"])
def test_a_file_of_a_repository_can_be_chosen_in_other_words(hub, file):
    hub.files = {**GGUF, "tiny.[x].gguf": b"brackets are no pattern of ours"}
    files = resolve(ModelRef(model="org/tiny", file=file))
    assert hub.downloads == ["tiny.Q4_0.gguf"]
    assert [path.name for path in files.weights] == ["tiny.Q4_0.gguf"]


def test_a_file_name_with_pattern_characters_is_that_file(hub):
    hub.files = {**GGUF, "tiny.[x].gguf": b"brackets"}
    resolve(ModelRef(model="org/tiny", file="tiny.[x].gguf"))
    assert hub.downloads == ["tiny.[x].gguf"]


def test_a_choice_is_made_among_all_files_though_only_some_are_in_the_cache(hub):
    hub.files = GGUF
    resolve(ModelRef(model="org/tiny", file="Q8_0"))
    assert [p.name for p in resolve(ModelRef(model="org/tiny", file="4")).weights] == [
        "tiny.Q4_0.gguf"
    ]


def test_without_a_network_a_file_that_the_cache_lacks_is_said_to_be_missing(hub):
    hub.files = GGUF
    resolve(ModelRef(model="org/tiny", file="Q8_0"))
    hub.failure = httpx2.ConnectError("Name or service not known")
    assert resolve(ModelRef(model="org/tiny", file="8")).weights[0].read_bytes() == b"packed"
    with pytest.raises(LoadError, match="not in the cache and the Hub cannot be reached"):
        resolve(ModelRef(model="org/tiny", file="Q4_0"))


def test_a_ggml_file_of_a_repository_is_known_by_its_ending_and_its_magic(hub):
    hub.files = {"tiny.ggmlv3.q4_0.bin": b"tjgg\x03", "tiny.ggmlv3.q8_0.bin": b"tjgg\x03"}
    files = resolve(ModelRef(model="org/tiny", file="tiny.ggmlv3.q4_0.bin", gqa=8))
    assert (files.kind, files.gqa) == ("ggml", 8)
    assert hub.downloads == ["tiny.ggmlv3.q4_0.bin"]


def test_a_tokenizer_is_fetched_from_its_repository_without_the_weights(hub, tmp_path):
    (tmp_path / "one.gguf").write_bytes(b"GGUF")
    hub.files = {**PLAIN, "chat_template.jinja": b"{{ messages }}"}
    files = resolve(ModelRef(model=str(tmp_path / "one.gguf"), tokenizer="org/tiny@v2"))
    assert sorted(hub.downloads) == ["chat_template.jinja", "tokenizer.json"]
    assert files.tokenizer is not None
    assert (files.tokenizer / "tokenizer.json").read_bytes() == PLAIN["tokenizer.json"]


def test_without_a_network_a_tokenizer_that_the_cache_lacks_is_said_to_be_missing(hub, tmp_path):
    hub.files = {**GGUF, **PLAIN}
    ref = ModelRef(model="org/tiny", file="Q4_0")
    resolve(ref)
    hub.failure = httpx2.ConnectError("Name or service not known")
    with pytest.raises(LoadError, match="not in the cache and the Hub cannot be reached"):
        resolve(ModelRef(model="org/tiny", file="Q4_0", tokenizer="org/tiny"))


def test_a_repository_without_a_tokenizer_is_refused_as_one(hub, tmp_path):
    (tmp_path / "one.gguf").write_bytes(b"GGUF")
    hub.files = GGUF
    with pytest.raises(LoadError, match=r"org/tiny has no tokenizer.json .*; name a model"):
        resolve(ModelRef(model=str(tmp_path / "one.gguf"), tokenizer="org/tiny"))


def test_the_modules_of_an_embedding_model_are_fetched_with_it(hub):
    modules = (
        *("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"),
        *("vocab.txt", "1_Pooling/config.json", "2_Dense/config.json"),
        "2_Dense/model.safetensors",
    )
    others = (
        *("2_Dense/pytorch_model.bin", "onnx/model.onnx", "openvino/config.json"),
        "0_Transformer/model.safetensors",
    )
    # Two files of one content would be one download.
    hub.files = {**PLAIN, **{name: name.encode() for name in (*modules, *others)}}
    resolve(ModelRef(model="org/tiny"))
    assert sorted(hub.downloads) == sorted([*PLAIN, *modules])


def test_folders_are_nothing_to_a_model_that_lists_no_modules(hub):
    hub.files = {**PLAIN, "1_Pooling/config.json": b"{}"}
    resolve(ModelRef(model="org/tiny"))
    assert sorted(hub.downloads) == sorted(PLAIN)


def test_a_full_disk_says_to_make_room(hub, monkeypatch):
    def fill(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    hub.files = PLAIN
    monkeypatch.setattr("engine.weights.hub.snapshot_download", fill)
    with pytest.raises(LoadError, match=r"No space left on device\): make room, or set HF_HOME"):
        resolve(ModelRef(model="org/tiny"))


def test_one_gguf_file_is_downloaded_alone(hub):
    hub.files = GGUF
    files = resolve(ModelRef(model="org/tiny@v2", kind="gguf", file="tiny.Q4_0.gguf"))
    assert hub.downloads == ["tiny.Q4_0.gguf"]
    assert files.kind == "gguf"
    assert [path.read_bytes() for path in files.weights] == [b"packed more"]


def test_all_splits_of_a_gguf_file_are_downloaded(hub):
    hub.files = {f"big-0000{i}-of-00002.gguf": b"part %d" % i for i in (1, 2)} | GGUF
    files = resolve(ModelRef(model="org/tiny", file="big-00001-of-00002.gguf"))
    assert sorted(hub.downloads) == ["big-00001-of-00002.gguf", "big-00002-of-00002.gguf"]
    assert len(files.weights) == 2


def test_progress_ends_at_the_size_of_the_needed_files(hub):
    hub.files = {**PLAIN, **OTHER}
    reports = []
    resolve(ModelRef(model="org/tiny"), lambda done, total: reports.append((done, total)))
    size = sum(map(len, PLAIN.values()))
    assert reports[-1] == (size, size)
    assert [done for done, _ in reports] == sorted(done for done, _ in reports)


def test_a_token_travels_with_every_request(hub):
    hub.files = PLAIN
    resolve(ModelRef(model="org/tiny", token_source="literal:hf_secret"))
    assert hub.tokens == {"Bearer hf_secret"}


@pytest.mark.parametrize(
    ("failure", "says"),
    [
        (httpx2.Response(401, headers={"X-Error-Code": "GatedRepo"}), "is gated: accept its terms"),
        (httpx2.Response(403, headers={"X-Error-Code": "GatedRepo"}), "is gated: accept its terms"),
        (httpx2.Response(404, headers={"X-Error-Code": "RepoNotFound"}), "was not found: check"),
        (httpx2.Response(401), "was not found: check the name, or, if it is private, give a token"),
        (httpx2.Response(403), r"refuses org/tiny to this token \(HTTP 403\)"),
        (
            httpx2.Response(
                401, headers={"X-Error-Message": "Invalid credentials in Authorization header"}
            ),
            r"refuses org/tiny to this token \(HTTP 401\)",
        ),
        (httpx2.Response(418), "answered HTTP 418 for org/tiny"),
        (httpx2.ProxyError("proxy says no"), r"cannot be reached \(proxy says no\): check the net"),
    ],
    ids=["gated-401", "gated-403", "404", "401", "403", "bad-token", "odd-status", "proxy"],
)
def test_a_refusal_of_the_hub_is_one_sentence_that_says_what_to_do(hub, failure, says):
    hub.failure = failure
    with pytest.raises(LoadError, match=says) as error:
        resolve(ModelRef(model="org/tiny"))
    assert "\n" not in str(error.value)


def test_offline_mode_is_named(hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(LoadError, match="not in the cache and HF_HUB_OFFLINE forbids the network"):
        resolve(ModelRef(model="org/tiny"))
    assert hub.tokens == set()


def test_a_failure_in_the_middle_of_a_download_is_named(hub, monkeypatch):
    hub.files = {**PLAIN}
    monkeypatch.setattr(hub, "_file", lambda method, name: httpx2.Response(418), raising=True)
    with pytest.raises(LoadError, match="org/tiny"):
        resolve(ModelRef(model="org/tiny"))


@pytest.mark.parametrize(
    ("files", "ref", "says"),
    [
        (PLAIN, {"model": "org/other"}, "org/other was not found"),
        (PLAIN, {"model": "org/tiny@v9"}, "org/tiny has no revision v9"),
        (PLAIN, {"model": "org/tiny", "revision": "v9"}, "org/tiny has no revision v9"),
        (
            GGUF,
            {"model": "org/tiny", "kind": "gguf", "file": "tiny.Q2.gguf"},
            "no file tiny.Q2.gguf; it has tiny.Q4_0.gguf, tiny.Q8_0.gguf",
        ),
        (
            PLAIN,
            {"model": "org/tiny", "file": "x.gguf"},
            "has no GGUF file to serve, so not x",
        ),
        (GGUF, {"model": "org/tiny", "kind": "gguf"}, "say which GGUF file with -f"),
        (GGUF, {"model": "org/tiny"}, "has tiny.Q4_0.gguf, tiny.Q8_0.gguf; say which GGUF file"),
        (GGUF, {"model": "org/tiny", "file": "q*"}, "has no file that 'q\\*' fits"),
        (
            GGUF,
            {"model": "org/tiny", "kind": "plain"},
            "name it with -f: tiny.Q4_0.gguf, tiny.Q8_0.gguf",
        ),
        (
            {"big-00001-of-00002.gguf": b"1"},
            {"model": "org/tiny"},
            "lacks big-00002-of-00002.gguf, which belongs to the model",
        ),
        (OTHER, {"model": "org/tiny"}, "no config.json; give a model in"),
        (OTHER, {"model": "org/tiny", "file": "pytorch_model.bin"}, "pickle files"),
        (
            {"config.json": b"{}", "pytorch_model.bin": b""},
            {"model": "org/tiny"},
            "pickle files .*safetensors format",
        ),
        ({"config.json": b"{}"}, {"model": "org/tiny"}, "no model.safetensors and no"),
        (PLAIN, {"model": "not a repo"}, "neither a directory nor a repository"),
        (PLAIN, {"model": "/no/such/directory"}, "neither a directory nor a repository"),
        (PLAIN, {"model": "org/.tiny."}, "no valid repository name: write it as org/name"),
    ],
    ids=lambda value: value["model"] if isinstance(value, dict) and "model" in value else "",
)
def test_a_wrong_reference_is_refused_before_any_weights_come(hub, files, ref, says):
    hub.files = files
    with pytest.raises(LoadError, match=says):
        resolve(ModelRef(**ref))
    assert hub.downloads == []


@pytest.mark.parametrize(
    ("model", "repo"),
    [
        ("org/name", Repo("org/name", None)),
        ("org/name@v1.0", Repo("org/name", "v1.0")),
        ("org/name@refs/pr/7", Repo("org/name", "refs/pr/7")),
    ],
)
def test_a_revision_follows_an_at_sign(model, repo):
    assert parse_repo(model) == repo


def test_token_sources(tmp_path):
    (tmp_path / "token").write_text("from-file\n")
    environ = {"MY_TOKEN": "from-variable", "HUGGING_FACE_HUB_TOKEN": "from-default"}
    sources = {
        "literal:abc": "abc",
        "env:MY_TOKEN": "from-variable",
        "env:": "from-default",
        f"path:{tmp_path / 'token'}": "from-file",
        "cache": None,
        "none": False,
    }
    assert {source: read_token(source, environ) for source in sources} == sources


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("hf_secret", "must be literal:TOKEN, env:VARIABLE"),
        ("literal:", "must be literal:TOKEN"),
        ("env:NOT_SET", "env:NOT_SET names a variable that is not set"),
        ("path:/no/such/file", "/no/such/file cannot be read"),
        ("path:/dev/null", "/dev/null is empty"),
        ("evn:HF_TOKEN", "not one of kind 'evn'"),
        ("env", "must be literal:TOKEN"),
    ],
)
def test_a_bad_token_source_is_refused(source, says):
    with pytest.raises(LoadError, match=says):
        read_token(source, {})
