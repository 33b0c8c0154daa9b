"""`tramontane keys`, and the sentence with which a server refuses bad keys."""

import subprocess
import sys
import tomllib

import pytest

from api.auth import Tenant
from api.config import ApiConfig
from api.key_file import configured_keys, hash_text
from deploy import cli, roles
from deploy.errors import StartError


def tramontane(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "deploy.cli", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, timeout=60)


def new(capsys, *flags: str) -> tuple[str, str]:
    """The key and its entry."""
    assert cli.main(["keys", "new", *flags]) == 0
    shown = capsys.readouterr()
    sentence, _, key = shown.err.strip().rpartition(" ")
    assert sentence == "the key, which is shown this once:"
    assert key not in shown.out
    return key, shown.out


def test_a_new_key_and_its_entry_are_a_pair_that_the_server_takes(capsys, tmp_path) -> None:
    key, text = new(capsys, "--tenant", "acme")
    path = tmp_path / "keys.toml"
    path.write_text(text)
    keys = configured_keys(ApiConfig(api_keys_file=str(path)))
    assert keys is not None
    assert keys.find(key.encode()) == Tenant("acme")
    assert key.startswith("sk-tr-")
    assert len(key) == len("sk-tr-") + 43  # 256 bits in base64


def test_two_new_keys_differ_and_their_entries_share_a_file(capsys, tmp_path) -> None:
    pairs = [new(capsys, "--tenant", "acme") for _ in range(2)]
    path = tmp_path / "keys.toml"
    path.write_text("".join(text for _, text in pairs))
    keys = configured_keys(ApiConfig(api_keys_file=str(path)))
    assert keys is not None
    assert [keys.find(key.encode()) for key, _ in pairs] == [Tenant("acme")] * 2
    assert pairs[0][0] != pairs[1][0]


def test_every_flag_lands_in_the_entry(capsys) -> None:
    flags = "--service-class batch --requests-per-min 60 --tokens-per-min 9000 --max-jobs 5"
    hook = ("--admin", "--webhook-url", "https://acme.example/h?a=%22")
    _, text = new(capsys, "--tenant", "acme", *flags.split(), *hook)
    (entry,) = tomllib.loads(text)["keys"]
    assert entry.pop("hash").startswith("sha256:")
    assert entry.pop("webhook_secret").startswith("whsec_")
    assert entry == {
        "tenant": "acme",
        "service_class": "batch",
        "requests_per_min": 60,
        "tokens_per_min": 9000,
        "max_jobs": 5,
        "admin": True,
        "webhook_url": "https://acme.example/h?a=%22",
    }


REFUSALS = {
    "no action": ("keys", "keys needs a word more"),
    "an unknown action": ("keys revoke", "'revoke' is not expected here"),
    "two actions": ("keys new hash --tenant a", "'hash' is not expected here"),
    "no tenant": ("keys new", "needs a tenant: --tenant NAME"),
    "a bad name": ("keys new --tenant a:b", "`tenant` must be 1 to 64"),
    "a bad limit": ("keys new --tenant a --max-jobs -1", "Expected `int` >= 0 - at `max_jobs`"),
    "no number": ("keys new --tenant a --max-jobs x", "--max-jobs: invalid int value"),
    "a bad class": ("keys new --tenant a --service-class fast", "--service-class: invalid choice"),
    "a bad address": (
        "keys new --tenant a --webhook-url x",
        "`webhook_url` must begin with https://",
    ),
}


@pytest.mark.parametrize(("line", "sentence"), REFUSALS.values(), ids=REFUSALS)
def test_a_mistake_is_one_sentence_and_no_key(line, sentence, capsys) -> None:
    assert cli.main(line.split()) == 2
    shown = capsys.readouterr()
    assert sentence in shown.err
    assert len(shown.err.splitlines()) == 1
    assert "sk-tr-" not in shown.err + shown.out


def test_a_switch_before_the_command_swallows_no_word(capsys) -> None:
    assert cli.main(["--admin", "keys", "new", "--tenant", "a"]) == 0
    assert "admin = true" in capsys.readouterr().out


@pytest.mark.parametrize("stdin", [b"sk-mine", b"sk-mine\n", b" sk-mine \r\nmore\n"])
def test_hash_reads_a_key_from_stdin(stdin) -> None:
    result = tramontane("keys", "hash", stdin=stdin)
    assert (result.returncode, result.stderr) == (0, b"")
    assert result.stdout.decode() == hash_text("sk-mine") + "\n"


@pytest.mark.parametrize("stdin", [b"", b"\n", b"two words\n", b"\xff\n"])
def test_hash_refuses_what_no_header_could_carry(stdin) -> None:
    result = tramontane("keys", "hash", stdin=stdin)
    assert (result.returncode, result.stdout) == (2, b"")
    assert len(result.stderr.splitlines()) == 1


def test_neither_check_nor_server_starts_with_bad_keys(tmp_path, redis_url, capsys) -> None:
    path = tmp_path / "keys.toml"
    path.write_text('[[keys]]\ntenant = "a"\nkey = "sk-plain"\n')
    flags = ["--redis-url", redis_url, "--api-keys-file", str(path)]
    assert cli.main(["check", *flags]) == 2
    error = capsys.readouterr().err
    assert "has a plain key; give its `hash`" in error
    assert "sk-plain" not in error
    with pytest.raises(StartError, match="has a plain key"):
        roles.api_command({"TRAMONTANE_API_KEYS_FILE": str(path)})
    path.write_text(f'[[keys]]\ntenant = "a"\nhash = "{hash_text("x")}"\n')
    assert cli.main(["check", *flags]) == 0


def test_neither_check_nor_server_starts_with_a_bad_webhook(redis_url, capsys) -> None:
    assert cli.main(["check", "--redis-url", redis_url, "--webhook-secret", "hunter2"]) == 2
    assert "TRAMONTANE_WEBHOOK_SECRET is refused" in capsys.readouterr().err
    with pytest.raises(StartError, match="must begin with https"):
        roles.api_command({"TRAMONTANE_WEBHOOK_URL": "c.example"})


def test_neither_check_nor_server_starts_with_traces_that_go_nowhere(redis_url, capsys) -> None:
    assert cli.main(["check", "--redis-url", redis_url, "--otlp-endpoint", "c:4318"]) == 2
    assert "an http:// or https:// URL is wanted" in capsys.readouterr().err
    protocol = {"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}
    with pytest.raises(StartError, match="http/protobuf only"):
        roles.api_command({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c", **protocol})
