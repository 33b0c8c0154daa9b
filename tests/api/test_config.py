"""Settings come from the environment under their documented names."""

import pytest

from api.app import create_app
from api.config import ApiConfig
from workers.environment import SettingError, load, settings_of


def test_names_follow_the_platforms_where_they_have_one():
    environ = {"REDIS_URL": "redis://r", "PORT": "80", "WEB_CONCURRENCY": "4"}
    config = load(ApiConfig, environ | {"TRAMONTANE_STRICT_MODEL_NAMES": "true"})
    assert (config.redis_url, config.port, config.web_concurrency) == ("redis://r", 80, 4)
    assert config.strict_model_names


@pytest.mark.parametrize(
    ("name", "value"),
    [("PORT", "high"), ("TRAMONTANE_PING_S", "0"), ("TRAMONTANE_LOG", "loud")],
)
def test_a_bad_value_is_refused_by_name(name, value):
    with pytest.raises(SettingError, match=name):
        load(ApiConfig, {name: value})


def test_every_setting_says_what_it_does():
    assert all(item.description.endswith(".") for item in settings_of(ApiConfig))


def test_an_app_needs_no_redis_to_be_made():
    assert callable(create_app(ApiConfig(redis_url="unix:///nowhere")))
