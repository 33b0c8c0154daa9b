"""Keys as the settings name them: the file, the environment, and both as time passes."""

import logging
import os

import pytest

from api.auth import Tenant
from api.config import ApiConfig
from api.key_file import KeyWatch, configured_keys, hash_text
from workers.environment import SettingError

SECRET = "whsec_" + "A" * 32  # 24 bytes

ENTRY = f"""
[[keys]]
tenant = "acme"
hash = "{hash_text("one")}"
service_class = "interactive"
requests_per_min = 60
tokens_per_min = 100_000
max_jobs = 50
admin = true
webhook_url = "https://acme.example/hook"
webhook_secret = "{SECRET}"
"""


@pytest.fixture
def write(tmp_path):
    """Writes the file and gives the settings that name it."""

    def write_file(text: str | bytes, api_keys: str = "") -> ApiConfig:
        path = tmp_path / "keys.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return ApiConfig(api_keys_file=str(path), api_keys=api_keys)

    return write_file


def find(config: ApiConfig, key: str) -> Tenant | None:
    keys = configured_keys(config)
    assert keys is not None
    return keys.find(key.encode())


def entry(tenant: str = "acme", key: str = "one", rest: str = "") -> str:
    return f'[[keys]]\ntenant = "{tenant}"\nhash = "{hash_text(key)}"\n{rest}\n'


def test_an_entry_has_everything_that_a_tenant_is(write):
    assert find(write(ENTRY), "one") == Tenant(
        "acme", "interactive", 60, 100_000, 50, True, "https://acme.example/hook", SECRET
    )
    assert find(write(ENTRY), "two") is None


def test_an_entry_of_tenant_and_hash_has_no_limits_and_no_rights(write):
    assert find(write(entry()), "one") == Tenant("acme")


def test_keys_of_one_tenant_may_differ_in_class_and_rights(write):
    config = write(entry() + entry(key="two", rest='service_class = "batch"\nadmin = true'))
    assert find(config, "one") == Tenant("acme")
    assert find(config, "two") == Tenant("acme", "batch", is_admin=True)


REFUSALS = {
    "nothing": ("", "it has no \\[\\[keys\\]\\]"),
    "a table": ("[keys]\na = 1", "it has no \\[\\[keys\\]\\]"),
    "an empty list": ("keys = []", "it has no \\[\\[keys\\]\\]"),
    "no table in the list": ("keys = [1]", "number 1: Expected `object`, got `int`"),
    "no TOML": ("[[keys]", "is refused: .*line 1"),
    "no text": (b"\xff\xfe", "is refused: .*utf-8"),
    "a stranger at the top": ("tenants = 1\n" + entry(), "there is a 'tenants' where only"),
    "a plain key": (
        '[[keys]]\ntenant = "a"\nkey = "sk-plain"',
        "number 1 has a plain key; give its `hash`",
    ),
    "a plain key as a hash": (
        '[[keys]]\ntenant = "a"\nhash = "sk-plain"',
        "number 1 has no good `hash`: it is `sha256:` and 64",
    ),
    "a short hash": ('[[keys]]\ntenant = "a"\nhash = "sha256:00"', "has no good `hash`"),
    "a hash without its name": (f'[[keys]]\ntenant="a"\nhash="{"0" * 64}"', "has no good `hash`"),
    "no hash": ('[[keys]]\ntenant = "a"', "missing required field `hash`"),
    "no tenant": (f'[[keys]]\nhash = "{hash_text("x")}"', "missing required field `tenant`"),
    "an unknown field": (entry(rest="burst = 1"), "unknown field `burst`"),
    "an unknown class": (entry(rest='service_class = "slow"'), "'slow' - at `service_class`"),
    "a negative limit": (entry(rest="max_jobs = -1"), "Expected `int` >= 0 - at `max_jobs`"),
    "a huge limit": (entry(rest="max_jobs = 99999999999999999999"), "max_jobs"),
    "no number": (entry(rest='tokens_per_min = "9"'), "got `str` - at `tokens_per_min`"),
    "no truth": (entry(rest="admin = 1"), "Expected `bool`, got `int` - at `admin`"),
    "no name": (entry(tenant=""), "`tenant` must be 1 to 64"),
    "a name that would part a Redis key": (entry(tenant="a:b"), "`tenant` must be 1 to 64"),
    "a name with a line end": (entry(tenant="a\\n"), "`tenant` must be 1 to 64"),
    "a webhook without a secret": (
        entry(rest='webhook_url = "https://x"'),
        "tenant 'acme' has a webhook_url and nothing to sign with",
    ),
    "a webhook to nowhere": (
        entry(rest=f'webhook_url = "ftp://x"\nwebhook_secret = "{SECRET}"'),
        "`webhook_url` must begin with https:// or http://",
    ),
    "a webhook to this network": (
        entry(rest=f'webhook_url = "http://10.0.0.1/"\nwebhook_secret = "{SECRET}"'),
        "the webhook_url of tenant 'acme' points to a private address",
    ),
    "a weak secret": (entry(rest='webhook_secret = "whsec_AAAA"'), "24 to 64 bytes in base64"),
    "no secret": (entry(rest='webhook_secret = "hunter2"'), "24 to 64 bytes in base64"),
    "the same key twice": (entry() + entry(tenant="other"), "the same API key is configured twice"),
    "limits that disagree": (
        entry() + entry(key="two", rest="tokens_per_min = 5"),
        "keys of tenant 'acme' disagree on tokens_per_min",
    ),
    "webhooks that disagree": (
        ENTRY + ENTRY.replace(hash_text("one"), hash_text("two")).replace("/hook", "/other"),
        "keys of tenant 'acme' disagree on webhook_url",
    ),
}


@pytest.mark.parametrize(("text", "sentence"), REFUSALS.values(), ids=REFUSALS)
def test_a_bad_file_is_refused_with_one_sentence(write, text, sentence):
    with pytest.raises(SettingError, match=sentence) as caught:
        configured_keys(write(text))
    assert "\n" not in str(caught.value)
    assert "sk-plain" not in str(caught.value)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("name", ["nowhere.toml", "."])
def test_a_file_that_cannot_be_read_is_one_sentence(tmp_path, name):
    with pytest.raises(SettingError, match="cannot be read: "):
        configured_keys(ApiConfig(api_keys_file=str(tmp_path / name)))


def test_without_settings_there_are_no_keys():
    assert configured_keys(ApiConfig()) is None


def test_the_environment_has_plain_keys_hashes_and_admins():
    config = ApiConfig(api_keys=f"one, {hash_text('two')},admin:three,admin:{hash_text('four')},")
    assert [find(config, key) for key in ("one", "two")] == [Tenant("default")] * 2
    admin = Tenant("default", is_admin=True)
    assert [find(config, key) for key in ("three", "four")] == [admin] * 2
    assert find(config, "admin:three") is None
    assert find(config, hash_text("two")) is None


@pytest.mark.parametrize("text", [",", " ", "sha256:12", "admin:sha256:zz", "a,a"])
def test_a_bad_environment_is_refused_rather_than_open(text):
    with pytest.raises(SettingError):
        configured_keys(ApiConfig(api_keys=text))


def test_file_and_environment_add_up(write):
    config = write(entry(), api_keys="two")
    assert find(config, "one") == Tenant("acme")
    assert find(config, "two") == Tenant("default")
    with pytest.raises(SettingError, match="configured twice"):
        configured_keys(write(entry(), api_keys="one"))
    with pytest.raises(SettingError, match="disagree on max_jobs"):
        configured_keys(write(entry(tenant="default", rest="max_jobs = 1"), api_keys="two"))


def test_a_webhook_may_be_signed_with_the_servers_own_secret(write):
    path = write(entry(rest='webhook_url = "https://x"')).api_keys_file
    config = ApiConfig(api_keys_file=path, webhook_secret=SECRET)
    assert find(config, "one") == Tenant("acme", webhook_url="https://x")


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


def knows(watch: KeyWatch, key: str) -> bool:
    keys = watch.keys()
    return keys is not None and keys.find(key.encode()) is not None


def test_a_changed_file_is_read_after_a_second(write, clock):
    watch = KeyWatch(write(entry()), clock)
    write(entry() + entry(key="other"))
    clock.now_s = 0.99
    assert not knows(watch, "other")
    clock.now_s = 1.0
    assert knows(watch, "other")
    assert knows(watch, "one")


def test_a_file_of_the_same_size_is_told_by_its_time(write, clock):
    config = write(entry(key="one"))
    watch = KeyWatch(config, clock)
    write(entry(key="two"))
    os.utime(config.api_keys_file, (1, 1))
    clock.now_s = 1.0
    assert (knows(watch, "one"), knows(watch, "two")) == (False, True)


def test_an_unchanged_file_is_not_read_again(write, clock):
    watch = KeyWatch(write(entry()), clock)
    before = watch.keys()
    for clock.now_s in (1.0, 2.0, 3.0):
        assert watch.keys() is before


@pytest.mark.parametrize("text", ["", "[[keys]", entry(rest="burst = 1"), None], ids=repr)
def test_a_file_that_becomes_bad_changes_nothing_and_is_logged_once(write, clock, caplog, text):
    config = write(entry())
    watch = KeyWatch(config, clock)
    if text is None:
        os.unlink(config.api_keys_file)
    else:
        write(text)
    with caplog.at_level(logging.ERROR, "api"):
        for clock.now_s in (1.0, 2.0, 3.0):
            assert knows(watch, "one")
    (record,) = caplog.records
    assert record.message.startswith("the API keys stay as they were: the API key file ")
    write(entry(key="two"))
    clock.now_s = 4.0
    assert (knows(watch, "one"), knows(watch, "two")) == (False, True)
