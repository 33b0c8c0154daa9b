"""Whom to tell of a job's end: the URL of a request, of its tenant or of the settings, checked.

Knows no job, and does not tell anybody.
"""

from api.auth import Tenant
from api.config import ApiConfig
from api.errors import ApiError
from api.hooks.signing import secret_key
from api.hooks.url import BadUrl, parse_url
from workers.environment import SettingError

HEADER = "x-webhook-url"


def webhook_url(given: str | None, tenant: Tenant, config: ApiConfig) -> str:
    """The URL to tell, empty for none; `given` is the request's own, from its header HEADER.

    Raises ApiError 400 for one that cannot be told, and where nothing is there to sign with.
    """
    url = given or tenant.webhook_url or config.webhook_url
    if not url:
        return ""
    param = HEADER if given else None
    try:
        parse_url(url, allow_private=config.webhook_allow_private)
    except BadUrl as error:
        owner = f"'{HEADER}'" if given else "The webhook URL of your API key"
        raise ApiError("invalid_value", f"{owner} {error}.", param) from error
    if not (tenant.webhook_secret or config.webhook_secret):
        raise ApiError(
            "invalid_value",
            "Webhooks need a secret to be signed with, and this server has none for you: "
            "set TRAMONTANE_WEBHOOK_SECRET, or `webhook_secret` of the API key.",
            param,
        )
    return url


def check_settings(config: ApiConfig) -> None:
    """Raise SettingError, which shows no secret, for webhook settings that will never work."""
    if config.webhook_secret:
        try:
            secret_key(config.webhook_secret)
        except ValueError as error:
            raise SettingError(f"TRAMONTANE_WEBHOOK_SECRET is refused: {error}") from error
    if not config.webhook_url:
        return
    try:
        parse_url(config.webhook_url, allow_private=config.webhook_allow_private)
    except BadUrl as error:
        raise SettingError(f"TRAMONTANE_WEBHOOK_URL {error}") from error
    if not config.webhook_secret:
        raise SettingError("TRAMONTANE_WEBHOOK_URL needs a TRAMONTANE_WEBHOOK_SECRET to sign with")
