"""Who is told is decided by request, tenant and settings, in this order, and checked at once."""

import pytest

from api.auth import ANONYMOUS, Tenant
from api.config import ApiConfig
from api.errors import ApiError
from api.hooks.callback import check_settings, webhook_url
from workers.environment import SettingError

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
GIVEN, OWN, GENERAL = "https://a.example/", "https://b.example/", "https://c.example/"
OPEN = ApiConfig(webhook_url=GENERAL, webhook_secret=SECRET)


def test_the_request_goes_before_the_tenant_and_the_tenant_before_the_settings():
    tenant = Tenant("acme", webhook_url=OWN)
    assert webhook_url(GIVEN, tenant, OPEN) == GIVEN
    assert webhook_url(None, tenant, OPEN) == OWN
    assert webhook_url(None, ANONYMOUS, OPEN) == GENERAL
    assert webhook_url("", ANONYMOUS, ApiConfig(webhook_secret=SECRET)) == ""


def test_a_secret_is_the_tenants_or_the_settings():
    assert webhook_url(GIVEN, Tenant("acme", webhook_secret=SECRET), ApiConfig()) == GIVEN
    assert webhook_url(GIVEN, Tenant("acme"), ApiConfig(webhook_secret=SECRET)) == GIVEN


@pytest.mark.parametrize(
    ("given", "tenant", "param"),
    [(GIVEN, ANONYMOUS, "x-webhook-url"), (None, Tenant("acme", webhook_url=OWN), None)],
)
def test_a_webhook_without_a_secret_is_refused_with_what_to_do(given, tenant, param):
    with pytest.raises(ApiError, match="TRAMONTANE_WEBHOOK_SECRET") as caught:
        webhook_url(given, tenant, ApiConfig())
    assert (caught.value.status, caught.value.param) == (400, param)


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1/", "http://[::ffff:169.254.169.254]/", "http://localhost/", "ftp://a.b/"],
)
def test_a_bad_url_is_refused_at_once(url):
    with pytest.raises(ApiError, match=r"^'x-webhook-url' (points|must)") as caught:
        webhook_url(url, ANONYMOUS, OPEN)
    assert (caught.value.status, caught.value.param) == (400, "x-webhook-url")
    with pytest.raises(ApiError, match=r"^The webhook URL of your API key"):
        webhook_url(None, Tenant("acme", webhook_url=url), OPEN)


def test_a_private_url_passes_where_the_settings_allow_it():
    config = ApiConfig(webhook_secret=SECRET, webhook_allow_private=True)
    assert webhook_url("http://10.0.0.1:8080/x", ANONYMOUS, config) == "http://10.0.0.1:8080/x"


@pytest.mark.parametrize("config", [ApiConfig(), OPEN, ApiConfig(webhook_secret=SECRET)])
def test_good_settings_pass(config):
    check_settings(config)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (ApiConfig(webhook_secret="hunter2hunter2"), "TRAMONTANE_WEBHOOK_SECRET is refused"),
        (ApiConfig(webhook_url=GENERAL), "needs a TRAMONTANE_WEBHOOK_SECRET"),
        (ApiConfig(webhook_url="http://10.0.0.1/", webhook_secret=SECRET), "WEBHOOK_URL points to"),
        (ApiConfig(webhook_url="c.example", webhook_secret=SECRET), "WEBHOOK_URL must begin"),
    ],
    ids=["secret", "no secret", "private", "no URL"],
)
def test_bad_settings_stop_the_start_and_show_no_secret(config, sentence):
    with pytest.raises(SettingError, match=sentence) as caught:
        check_settings(config)
    assert "hunter2" not in str(caught.value)
